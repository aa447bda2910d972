//! `#[derive(Wire)]`: the fingerprint and the least size of a type, from its fields.

use proc_macro2::TokenStream;
use quote::{format_ident, quote, quote_spanned};
use syn::spanned::Spanned;
use syn::visit::{self, Visit};
use syn::{Data, DataEnum, DeriveInput, Error, Field, Fields, Ident, Type, parse_quote};

use crate::serde_attributes;

/// LIMIT: far above any protocol, and well within the codec's variant index of 32 bits.
const VARIANTS_MAX: usize = 1 << 16;

/// The implementation of `Wire`, or the errors beside an empty one, so that each mistake is reported once.
pub(crate) fn derive(input: &DeriveInput) -> TokenStream {
    match implementation(input) {
        Ok(tokens) => tokens,
        Err(error) => {
            let errors = error.to_compile_error();
            let empty = implement(input, &quote!(0), &quote!(1), &quote!(1));
            quote!(#errors #empty)
        }
    }
}

fn implementation(input: &DeriveInput) -> Result<TokenStream, Error> {
    serde_attributes::check(input)?;
    refuse_recursion(input)?;
    let (fingerprint, encoded_min) = match &input.data {
        Data::Struct(data) => {
            let parts = data.fields.len() as u64;
            let fields = fingerprint_of(&data.fields);
            let fingerprint = quote! {{
                let hash = ::rpc::__private::shape("struct", #parts);
                #fields
                hash
            }};
            (fingerprint, encoded_min_of(&data.fields))
        }
        Data::Enum(data) => of_enum(input, data)?,
        Data::Union(data) => {
            return Err(Error::new(data.union_token.span, "a union cannot travel in a message; use an enum"));
        }
    };
    let mut tokens = implement(input, &fingerprint, &encoded_min, &heap_per_byte_of(input));
    if input.generics.params.is_empty() {
        // A constant that nobody uses is not evaluated; this one makes what is wrong with the type an error here.
        let name = &input.ident;
        tokens.extend(quote! {
            const _: u64 = <#name as ::rpc::Wire>::FINGERPRINT;
        });
    }
    Ok(tokens)
}

fn of_enum(input: &DeriveInput, data: &DataEnum) -> Result<(TokenStream, TokenStream), Error> {
    if data.variants.len() > VARIANTS_MAX {
        return Err(Error::new(
            input.ident.span(),
            format!("an enum that travels has at most {VARIANTS_MAX} variants"),
        ));
    }
    let parts = data.variants.len() as u64;
    let variants = data.variants.iter().map(|variant| {
        let name = unraw(&variant.ident);
        let fields_count = variant.fields.len() as u64;
        let fields = fingerprint_of(&variant.fields);
        quote! {
            let hash = ::rpc::__private::part(hash, #name, #fields_count);
            #fields
        }
    });
    let fingerprint = quote! {{
        let hash = ::rpc::__private::shape("enum", #parts);
        #(#variants)*
        hash
    }};
    let smallest = data
        .variants
        .iter()
        .map(|variant| encoded_min_of(&variant.fields))
        .reduce(|least, next| quote!(::rpc::__private::least(#least, #next)))
        .unwrap_or_else(|| quote!(0));
    Ok((fingerprint, quote!(1 + #smallest)))
}

fn implement(
    input: &DeriveInput,
    fingerprint: &TokenStream,
    encoded_min: &TokenStream,
    heap_per_byte: &TokenStream,
) -> TokenStream {
    let name = &input.ident;
    let mut generics = input.generics.clone();
    for parameter in generics.type_params_mut() {
        parameter.bounds.push(parse_quote!(::rpc::Wire));
    }
    let (impl_generics, type_generics, where_clause) = generics.split_for_impl();
    quote! {
        #[automatically_derived]
        impl #impl_generics ::rpc::Wire for #name #type_generics #where_clause {
            const FINGERPRINT: u64 = #fingerprint;
            const ENCODED_MIN: usize = #encoded_min;
            const HEAP_PER_BYTE: usize = #heap_per_byte;
        }
    }
}

/// Statements that add each field to `hash`. A type that is not `Wire` is reported at the field.
fn fingerprint_of(fields: &Fields) -> TokenStream {
    let parts = fields.iter().enumerate().map(|(position, field)| {
        let name = match &field.ident {
            Some(ident) => unraw(ident),
            None => position.to_string(),
        };
        let fingerprint = constant(field, "FINGERPRINT");
        quote!(let hash = ::rpc::__private::part(hash, #name, #fingerprint);)
    });
    quote!(#(#parts)*)
}

fn encoded_min_of(fields: &Fields) -> TokenStream {
    let sizes = fields.iter().map(|field| constant(field, "ENCODED_MIN"));
    quote!((0usize #(+ #sizes)*))
}

fn heap_per_byte_of(input: &DeriveInput) -> TokenStream {
    let fields: Vec<_> = match &input.data {
        Data::Struct(data) => data.fields.iter().collect(),
        Data::Enum(data) => data.variants.iter().flat_map(|variant| variant.fields.iter()).collect(),
        Data::Union(_) => Vec::new(),
    };
    fields
        .into_iter()
        .map(|field| constant(field, "HEAP_PER_BYTE"))
        .fold(quote!(1), |most, next| quote!(::rpc::__private::most(#most, #next)))
}

fn constant(field: &Field, name: &str) -> TokenStream {
    let (of, name) = (&field.ty, format_ident!("{name}"));
    quote_spanned!(of.span()=> <#of as ::rpc::Wire>::#name)
}

fn unraw(ident: &Ident) -> String {
    ident.to_string().trim_start_matches("r#").to_owned()
}

/// A type that names itself is refused with a sentence. One that comes back to itself through another type is a cycle
/// of constants, which the compiler refuses.
fn refuse_recursion(input: &DeriveInput) -> Result<(), Error> {
    let mut search = SelfMention { name: &input.ident, found: None };
    match &input.data {
        Data::Struct(data) => data.fields.iter().for_each(|field| search.visit_type(&field.ty)),
        Data::Enum(data) => {
            data.variants.iter().flat_map(|variant| &variant.fields).for_each(|field| search.visit_type(&field.ty));
        }
        Data::Union(_) => {}
    }
    match search.found {
        Some(found) => Err(Error::new(
            found.span(),
            "a type that contains itself cannot travel in a message: a few kilobytes of nesting would overflow the \
             receiver's stack; send a flat `rpc::List` of nodes that refer to each other by position",
        )),
        None => Ok(()),
    }
}

struct SelfMention<'a> {
    name: &'a Ident,
    found: Option<Type>,
}

impl<'a> Visit<'a> for SelfMention<'_> {
    fn visit_type(&mut self, node: &'a Type) {
        if let Type::Path(path) = node
            && path.qself.is_none()
            && (path.path.is_ident("Self")
                || path.path.segments.len() == 1 && path.path.segments[0].ident == *self.name)
        {
            self.found.get_or_insert_with(|| node.clone());
        }
        visit::visit_type(self, node);
    }
}
