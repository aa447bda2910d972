//! `#[derive(Request)]`: a method's id, its answers and its limits, from `#[rpc(..)]`.

use proc_macro2::TokenStream;
use quote::{quote, quote_spanned};
use syn::spanned::Spanned;
use syn::{DeriveInput, Error, LitInt, LitStr, Type, parse_quote};

use crate::{attribute, wire};

/// LIMIT: what a declared answer may at most occupy, the largest body of the wire format.
const ACK_BYTES_MAX: u32 = 64 << 20;

pub(crate) fn derive(input: &DeriveInput) -> TokenStream {
    let wire = wire::derive(input);
    let request = implementation(input).unwrap_or_else(Error::into_compile_error);
    quote!(#wire #request)
}

struct Attributes {
    id: u16,
    version: u16,
    name: LitStr,
    ack: Type,
    rejection: Type,
    item: Option<Type>,
    idempotent: bool,
    lossy: Type,
    ack_bytes_max: Option<u32>,
}

fn implementation(input: &DeriveInput) -> Result<TokenStream, Error> {
    if let Some(parameter) = input.generics.params.first() {
        return Err(Error::new(
            parameter.span(),
            "a request has no generic parameters: its id stands for one type; derive `Wire` on generic parts of it",
        ));
    }
    let Attributes { id, version, name, ack, rejection, item, lossy, idempotent, ack_bytes_max } = attributes(input)?;
    let request = &input.ident;
    let declared_max = ack_bytes_max.map(|max| quote!(const ACK_BYTES_MAX: u32 = #max;));
    let too_small = format!("`{request}`: `ack_bytes_max` is less than the smallest ack needs");
    let opens_stream = item.is_some();
    let stream = item.map(|item| {
        quote! {
            #[automatically_derived]
            impl ::rpc::StreamRequest for #request {
                type Item = #item;
                type Lossy = #lossy;
            }
            const _: u64 = <#item as ::rpc::Wire>::FINGERPRINT ^ <#lossy as ::rpc::Wire>::FINGERPRINT;
        }
    });
    let idempotent = idempotent.then(|| quote!(#[automatically_derived] impl ::rpc::Idempotent for #request {}));
    // The assertion stands where the ack does, and evaluates the answers' constants, so that what is wrong with one of
    // them is an error here and not where the request is used.
    let checks = quote_spanned! {ack.span()=>
        const _: () = ::core::assert!(
            <#ack as ::rpc::Wire>::ENCODED_MIN <= <#request as ::rpc::Request>::ACK_BYTES_MAX as usize,
            #too_small
        );
        const _: u64 = <#ack as ::rpc::Wire>::FINGERPRINT ^ <#rejection as ::rpc::Wire>::FINGERPRINT;
    };
    Ok(quote! {
        #[automatically_derived]
        impl ::rpc::Request for #request {
            type Ack = #ack;
            type Rejection = #rejection;
            const ID: u16 = #id;
            const VERSION: u16 = #version;
            const NAME: &'static str = #name;
            #declared_max
            const OPENS_STREAM: bool = #opens_stream;
        }
        #stream
        #idempotent
        #checks
    })
}

fn attributes(input: &DeriveInput) -> Result<Attributes, Error> {
    let (mut id, mut version, mut name, mut ack_bytes_max) = (None, None, None, None);
    let (mut ack, mut rejection, mut item, mut idempotent) = (None, None, None, None);
    let mut lossy: Option<Type> = None;
    attribute::each(&input.attrs, |meta| {
        let key = meta.path.get_ident().map(ToString::to_string).unwrap_or_default();
        match key.as_str() {
            "id" => attribute::once(&mut id, &meta, meta.value()?.parse::<LitInt>()?.base10_parse()?),
            "version" => attribute::once(&mut version, &meta, meta.value()?.parse::<LitInt>()?.base10_parse()?),
            "name" => attribute::once(&mut name, &meta, attribute::name(meta.value()?.parse()?)?),
            "ack" => attribute::once(&mut ack, &meta, meta.value()?.parse()?),
            "rejection" => attribute::once(&mut rejection, &meta, meta.value()?.parse()?),
            "item" => attribute::once(&mut item, &meta, meta.value()?.parse()?),
            "idempotent" => attribute::once(&mut idempotent, &meta, ()),
            "lossy" => attribute::once(&mut lossy, &meta, meta.value()?.parse()?),
            "ack_bytes_max" => {
                let literal: LitInt = meta.value()?.parse()?;
                let max = literal.base10_parse()?;
                if max > ACK_BYTES_MAX {
                    let message = format!("an ack has at most {ACK_BYTES_MAX} bytes; a larger answer is a stream");
                    return Err(Error::new(literal.span(), message));
                }
                attribute::once(&mut ack_bytes_max, &meta, max)
            }
            _ => Err(meta.error(
                "a request knows `id`, `ack`, `rejection`, `version`, `name`, `ack_bytes_max`, `item`, `lossy` and `idempotent`",
            )),
        }
    })?;
    if let (Some(lossy), None) = (&lossy, &item) {
        let message = "`lossy` is the second type of a stream; say what its lossless items are with `item = Type`";
        return Err(Error::new(lossy.span(), message));
    }
    let missing = |what: &str| Error::new(input.ident.span(), format!("a request needs {what}"));
    Ok(Attributes {
        id: id.ok_or_else(|| {
            missing("`#[rpc(id = 1, ..)]`: the number of the method on the wire, never used again for another")
        })?,
        version: version.unwrap_or(1),
        name: name.unwrap_or_else(|| LitStr::new(&attribute::snake_case(&input.ident), input.ident.span())),
        ack: ack
            .ok_or_else(|| missing("`#[rpc(ack = Type, ..)]`: what the handler's \"yes\" carries; `()` for nothing"))?,
        rejection: rejection.unwrap_or_else(|| parse_quote!(::rpc::Never)),
        item,
        idempotent: idempotent.is_some(),
        lossy: lossy.unwrap_or_else(|| parse_quote!(::rpc::Never)),
        ack_bytes_max,
    })
}
