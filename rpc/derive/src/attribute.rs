//! `#[rpc(..)]`: reading it, and the names that are made from identifiers.

use proc_macro2::Span;
use syn::meta::ParseNestedMeta;
use syn::{Attribute, Error, Ident, LitStr};

/// LIMIT: names are in the handshake and in logs.
const NAME_BYTES_MAX: usize = 64;

/// Hands each `key` or `key = value` of every `#[rpc(..)]` to `read`.
pub(crate) fn each(
    attributes: &[Attribute],
    mut read: impl FnMut(ParseNestedMeta<'_>) -> Result<(), Error>,
) -> Result<(), Error> {
    attributes
        .iter()
        .filter(|attribute| attribute.path().is_ident("rpc"))
        .try_for_each(|attribute| attribute.parse_nested_meta(&mut read))
}

/// Keeps a value, unless there is one.
pub(crate) fn once<T>(slot: &mut Option<T>, meta: &ParseNestedMeta<'_>, value: T) -> Result<(), Error> {
    match slot.replace(value) {
        Some(_) => Err(meta.error("this is given twice")),
        None => Ok(()),
    }
}

/// Checks a name that goes on the wire.
pub(crate) fn name(name: LitStr) -> Result<LitStr, Error> {
    let text = name.value();
    match (1..=NAME_BYTES_MAX).contains(&text.len()) && text.bytes().all(|byte| byte.is_ascii_graphic()) {
        true => Ok(name),
        false => Err(Error::new(name.span(), format!("a name is 1 to {NAME_BYTES_MAX} visible ASCII characters long"))),
    }
}

/// `ListRewindTargets` as `list_rewind_targets`, `HTTPGet` as `http_get`.
pub(crate) fn snake_case(ident: &Ident) -> String {
    let text = ident.to_string();
    let letters: Vec<char> = text.trim_start_matches("r#").chars().collect();
    let mut snake = String::new();
    for (at, letter) in letters.iter().enumerate() {
        let before = at.checked_sub(1).and_then(|before| letters.get(before));
        let after = letters.get(at + 1);
        let begins_word = letter.is_uppercase()
            && before.is_some_and(|before| {
                before.is_lowercase()
                    || before.is_numeric()
                    || before.is_uppercase() && after.is_some_and(|after| after.is_lowercase())
            });
        if begins_word {
            snake.push('_');
        }
        snake.extend(letter.to_lowercase());
    }
    snake
}

/// [`snake_case`] as the name of a method, also if it is a keyword.
pub(crate) fn method_name(ident: &Ident) -> Ident {
    let snake = snake_case(ident);
    let span: Span = ident.span();
    match snake.as_str() {
        // The keywords that cannot be raw identifiers.
        "self" | "super" | "crate" | "_" => Ident::new(&format!("{snake}_"), span),
        _ => match syn::parse_str::<Ident>(&snake) {
            Ok(_) => Ident::new(&snake, span),
            Err(_) => Ident::new_raw(&snake, span),
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn snake_case_of_variants_reads_as_a_method() {
        for (variant, method) in [
            ("Add", "add"),
            ("ListRewindTargets", "list_rewind_targets"),
            ("HTTPGet", "http_get"),
            ("GetURL", "get_url"),
            ("V2Add", "v2_add"),
            ("AddV2", "add_v2"),
            ("A", "a"),
        ] {
            assert_eq!(snake_case(&Ident::new(variant, Span::call_site())), method);
        }
    }

    #[test]
    fn method_name_that_is_a_keyword_is_raw() {
        for (variant, method) in [("Move", "r#move"), ("Yield", "r#yield"), ("Super", "super_"), ("Run", "run")] {
            assert_eq!(method_name(&Ident::new(variant, Span::call_site())).to_string(), method);
        }
    }
}
