//! Which serde attributes a positional format can carry.
//!
//! Bodies hold values in the order of their fields, without names: an attribute that leaves a field out on one side,
//! or that needs to look ahead, encodes to bytes that decode to something else or to nothing. Never a list of what is
//! refused alone: what is not known to be harmless is refused too.
//!
//! Called by every derive before it generates anything.

use proc_macro2::Span;
use syn::punctuated::Punctuated;
use syn::spanned::Spanned;
use syn::{Attribute, Data, DeriveInput, Error, Fields, Meta, Token};

/// Names, bounds and texts of errors: nothing that moves a byte. A `transparent` struct has one field, whose bytes are
/// the struct's with the attribute and without it.
const HARMLESS_ON_TYPE: &[&str] =
    &["rename", "rename_all", "rename_all_fields", "deny_unknown_fields", "bound", "crate", "expecting", "transparent"];
const HARMLESS_ON_VARIANT: &[&str] = &["rename", "rename_all", "alias", "bound"];
const HARMLESS_ON_FIELD: &[&str] = &["rename", "alias", "bound"];

/// Checks the attributes of the type, its variants and its fields.
///
/// # Errors
/// One error for each attribute that cannot be carried, at the attribute.
pub(crate) fn check(input: &DeriveInput) -> Result<(), Error> {
    let mut errors = Errors(None);
    errors.check(&input.attrs, HARMLESS_ON_TYPE);
    match &input.data {
        Data::Struct(data) => errors.check_fields(&data.fields),
        Data::Enum(data) => {
            for variant in &data.variants {
                errors.check(&variant.attrs, HARMLESS_ON_VARIANT);
                errors.check_fields(&variant.fields);
            }
        }
        Data::Union(_) => {}
    }
    match errors.0 {
        Some(errors) => Err(errors),
        None => Ok(()),
    }
}

struct Errors(Option<Error>);

impl Errors {
    fn check_fields(&mut self, fields: &Fields) {
        for field in fields {
            self.check(&field.attrs, HARMLESS_ON_FIELD);
        }
    }

    fn check(&mut self, attributes: &[Attribute], harmless: &[&str]) {
        for attribute in attributes.iter().filter(|attribute| attribute.path().is_ident("serde")) {
            match attribute.parse_args_with(Punctuated::<Meta, Token![,]>::parse_terminated) {
                Ok(metas) => metas.iter().for_each(|meta| self.check_meta(meta, harmless)),
                Err(error) => self.add(error),
            }
        }
    }

    fn check_meta(&mut self, meta: &Meta, harmless: &[&str]) {
        let name = meta.path().get_ident().map(ToString::to_string).unwrap_or_default();
        if !harmless.contains(&name.as_str()) {
            self.add(refusal(&name, meta.path().span()));
        }
    }

    fn add(&mut self, error: Error) {
        match &mut self.0 {
            Some(errors) => errors.combine(error),
            None => self.0 = Some(error),
        }
    }
}

fn refusal(name: &str, span: Span) -> Error {
    let (why, instead) = match name {
        "untagged" | "tag" | "content" => (
            "it can be encoded and then not decoded, because the receiver would have to look ahead",
            "remove it: an enum travels as the number of its variant, followed by its fields",
        ),
        "flatten" => (
            "it makes a map of the fields, and the format has no field names",
            "name the nested type as a field of its own",
        ),
        "skip" | "skip_serializing" | "skip_deserializing" | "skip_serializing_if" => (
            "the format has no field names, so everything behind a part that is left out is read in its place",
            "make the field an `Option`, or keep it in a type that does not travel",
        ),
        "default" => (
            "the format cannot leave a field out, so a default never applies and only seems to help old peers",
            "make the field an `Option`, or ship a new request with its own id or version",
        ),
        "with" | "serialize_with" | "deserialize_with" | "getter" | "remote" => (
            "its bytes are those of some other type, which the schema fingerprint cannot see",
            "give the field the type that travels, or implement `rpc::Wire` by hand with that type's constants",
        ),
        "from" | "into" | "try_from" => (
            "its bytes are those of the other type, which the schema fingerprint cannot see",
            "implement `rpc::Wire` by hand with that type's constants: \
             `const FINGERPRINT: u64 = <Other as rpc::Wire>::FINGERPRINT;`, and `ENCODED_MIN` likewise",
        ),
        "borrow" => ("a message outlives the buffer that it was read from", "use an owned type such as `String`"),
        "other" => (
            "an unknown variant's fields would be left over in the body",
            "remove it: a peer of another version is refused in the handshake",
        ),
        _ => (
            "it is not known to leave the bytes as they are",
            "remove it, or keep it on a type that does not travel and convert",
        ),
    };
    Error::new(span, format!("`#[serde({name})]` cannot travel in a message: {why}; {instead}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check_refused(source: &str, count: usize) {
        let input: DeriveInput = syn::parse_str(source).expect("the source of the test parses");
        let errors = check(&input).err().map_or(0, |error| error.into_iter().count());
        assert_eq!(errors, count, "{source}");
    }

    #[test]
    fn attribute_that_moves_bytes_is_refused_wherever_it_stands() {
        for name in ["untagged", "tag = \"t\"", "content = \"c\"", "default", "remote = \"R\"", "from = \"F\""] {
            check_refused(&format!("#[serde({name})] struct S {{ a: u8 }}"), 1);
        }
        for name in ["into = \"I\"", "try_from = \"F\"", "variant_identifier", "field_identifier", "tomorrow"] {
            check_refused(&format!("#[serde({name})] enum S {{ A }}"), 1);
        }
        for name in ["skip", "skip_serializing", "skip_deserializing", "other", "untagged", "with = \"m\"", "borrow"] {
            check_refused(&format!("enum S {{ #[serde({name})] A, B }}"), 1);
        }
        for name in [
            "skip",
            "skip_serializing",
            "skip_deserializing",
            "skip_serializing_if = \"f\"",
            "default",
            "default = \"f\"",
            "flatten",
            "with = \"m\"",
            "serialize_with = \"f\"",
            "deserialize_with = \"f\"",
            "getter = \"g\"",
            "borrow",
            "a::path",
        ] {
            check_refused(&format!("struct S {{ #[serde({name})] a: u8 }}"), 1);
            check_refused(&format!("enum S {{ A {{ #[serde({name})] a: u8 }} }}"), 1);
            check_refused(&format!("enum S {{ A(#[serde({name})] u8) }}"), 1);
        }
    }

    #[test]
    fn attribute_that_names_is_accepted() {
        check_refused(
            "#[serde(rename = \"x\", rename_all = \"snake_case\", deny_unknown_fields)] struct S { a: u8 }",
            0,
        );
        check_refused("#[serde(transparent)] #[serde(bound = \"\", crate = \"serde\")] struct S(u8);", 0);
        check_refused("enum S { #[serde(rename(serialize = \"a\", deserialize = \"b\"), alias = \"c\")] A }", 0);
        check_refused("struct S { #[serde(rename = \"x\", alias = \"y\")] a: u8 }", 0);
    }

    #[test]
    fn every_refused_attribute_is_reported() {
        check_refused("#[serde(default)] struct S { #[serde(skip, rename = \"b\")] a: u8, #[serde(flatten)] c: C }", 3);
    }
}
