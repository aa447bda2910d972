//! `#[derive(Protocol)]`: the router, the handler trait, the service and the call enum of an enum of requests.

use proc_macro2::TokenStream;
use quote::{ToTokens, format_ident, quote, quote_spanned};
use syn::spanned::Spanned;
use syn::{Attribute, Data, DeriveInput, Error, Fields, Ident, LitInt, LitStr, Type, Variant};

use crate::attribute;

/// One variant: a method of the service.
struct Method<'a> {
    variant: &'a Ident,
    /// The variant's documentation, repeated on what is generated from it.
    docs: Vec<&'a Attribute>,
    request: &'a Type,
    function: Ident,
    stream: bool,
}

pub(crate) fn derive(input: &DeriveInput) -> Result<TokenStream, Error> {
    let (name, version) = attributes(input)?;
    let methods = methods(input)?;
    let implementation = implementation(input, &name, version, &methods);
    let checks = checks(input, &methods);
    let handler = handler(input, &methods);
    let service = service(input, &methods);
    let call = call(input, &methods);
    Ok(quote!(#implementation #checks #handler #service #call))
}

fn attributes(input: &DeriveInput) -> Result<(LitStr, u16), Error> {
    let (mut name, mut version) = (None, None);
    attribute::each(&input.attrs, |meta| {
        if meta.path.is_ident("name") {
            attribute::once(&mut name, &meta, attribute::name(meta.value()?.parse()?)?)
        } else if meta.path.is_ident("version") {
            attribute::once(&mut version, &meta, meta.value()?.parse::<LitInt>()?.base10_parse()?)
        } else {
            Err(meta.error("a protocol knows `name` and `version`"))
        }
    })?;
    let name = name.ok_or_else(|| {
        Error::new(input.ident.span(), "a protocol needs `#[rpc(name = \"..\")]`: the handshake compares it")
    })?;
    Ok((name, version.unwrap_or(1)))
}

fn methods(input: &DeriveInput) -> Result<Vec<Method<'_>>, Error> {
    let Data::Enum(data) = &input.data else {
        return Err(Error::new(input.ident.span(), "a protocol is an enum with one variant for each request"));
    };
    if let Some(parameter) = input.generics.params.first() {
        return Err(Error::new(parameter.span(), "a protocol has no generic parameters"));
    }
    if data.variants.is_empty() {
        return Err(Error::new(input.ident.span(), "a protocol has at least one request"));
    }
    let mut methods: Vec<Method<'_>> = Vec::with_capacity(data.variants.len());
    for variant in &data.variants {
        let method = method(variant)?;
        if let Some(earlier) = methods.iter().find(|earlier| earlier.request == method.request) {
            let message = format!(
                "`{}` and `{}` carry the same request; a service has one method for each request type",
                earlier.variant, method.variant
            );
            return Err(Error::new(method.request.span(), message));
        }
        if let Some(earlier) = methods.iter().find(|earlier| earlier.function == method.function) {
            let message = format!(
                "`{}` and `{}` would both be the handler's `{}`; rename one of them",
                earlier.variant, method.variant, method.function
            );
            return Err(Error::new(method.variant.span(), message));
        }
        methods.push(method);
    }
    Ok(methods)
}

fn method(variant: &Variant) -> Result<Method<'_>, Error> {
    let request = match &variant.fields {
        Fields::Unnamed(fields) if fields.unnamed.len() == 1 => &fields.unnamed[0].ty,
        _ => {
            let message = "a variant of a protocol holds one request: `Add(Add)`";
            return Err(Error::new(variant.span(), message));
        }
    };
    let mut stream = None;
    attribute::each(&variant.attrs, |meta| match meta.path.is_ident("stream") {
        true => attribute::once(&mut stream, &meta, ()),
        false => Err(meta.error("a variant of a protocol knows `stream`")),
    })?;
    let docs: Vec<&Attribute> = variant.attrs.iter().filter(|attribute| attribute.path().is_ident("doc")).collect();
    let function = attribute::method_name(&variant.ident);
    Ok(Method { variant: &variant.ident, docs, request, function, stream: stream.is_some() })
}

fn implementation(input: &DeriveInput, name: &LitStr, version: u16, methods: &[Method<'_>]) -> TokenStream {
    let protocol = &input.ident;
    let (service, call) = (service_name(protocol), call_name(protocol));
    let infos = methods.iter().map(|Method { request, stream, .. }| match stream {
        true => quote_spanned!(request.span()=> ::rpc::MethodInfo::of_stream::<#request>()),
        false => quote_spanned!(request.span()=> ::rpc::MethodInfo::of::<#request>()),
    });
    let decodes = methods.iter().map(|Method { variant, request, .. }| {
        quote! {
            (<#request as ::rpc::Request>::ID, <#request as ::rpc::Request>::VERSION) => {
                ::rpc::__private::request::<#request>(body).map(Self::#variant)
            }
        }
    });
    let calls = methods.iter().map(|Method { variant, request, stream, .. }| match stream {
        true => quote! {
            Self::#variant(request) => {
                let items = raw.items();
                #call::#variant(request, raw.into_responder::<#request>(), items)
            }
        },
        false => quote! {
            Self::#variant(request) => #call::#variant(request, raw.into_responder::<#request>()),
        },
    });
    let requests = methods.iter().map(|method| method.request);
    quote! {
        #[automatically_derived]
        impl ::rpc::Protocol for #protocol {
            const NAME: &'static str = #name;
            const VERSION: u16 = #version;
            const METHODS: &'static [::rpc::MethodInfo] = &[#(#infos),*];
            type Service = #service;
            type Call = #call;

            fn decode(method: u16, version: u16, body: &[u8]) -> ::core::result::Result<Self, ::rpc::DecodeFault> {
                match (method, version) {
                    #(#decodes)*
                    _ => ::core::result::Result::Err(::rpc::__private::fault(Self::METHODS, method)),
                }
            }

            fn into_call(self, raw: ::rpc::RawResponder) -> Self::Call {
                match self {
                    #(#calls)*
                }
            }
        }
        #(
            #[automatically_derived]
            impl ::rpc::Has<#requests> for #protocol {}
        )*
    }
}

/// Assertions about constants that only the compiler knows.
fn checks(input: &DeriveInput, methods: &[Method<'_>]) -> TokenStream {
    let protocol = &input.ident;
    let checks = methods.iter().enumerate().map(|(position, Method { variant, request, stream, .. })| {
        let earlier = methods[..position].iter().map(|earlier| earlier.request);
        let message = format!(
            "`{protocol}::{variant}` has the method id and version of an earlier variant; \
             every request of a service has its own"
        );
        let unmarked = (!stream).then(|| {
            let message = format!("the ack of `{protocol}::{variant}` opens a stream: mark it with `#[rpc(stream)]`");
            quote_spanned! {variant.span()=>
                const _: () = ::core::assert!(!<#request as ::rpc::Request>::OPENS_STREAM, #message);
            }
        });
        quote_spanned! {variant.span()=>
            #unmarked
            const _: () = ::core::assert!(
                ::rpc::__private::is_new(
                    <#request as ::rpc::Request>::ID,
                    <#request as ::rpc::Request>::VERSION,
                    &[#((<#earlier as ::rpc::Request>::ID, <#earlier as ::rpc::Request>::VERSION)),*],
                ),
                #message
            );
        }
    });
    quote! {
        #(#checks)*
        const _: &[::rpc::MethodInfo] = <#protocol as ::rpc::Protocol>::METHODS;
    }
}

fn handler(input: &DeriveInput, methods: &[Method<'_>]) -> TokenStream {
    let (protocol, visibility) = (&input.ident, &input.vis);
    let handler = handler_name(protocol);
    let summary = format!("What answers the requests of [`{protocol}`].");
    let functions = methods.iter().map(|Method { docs, request, function, stream, .. }| {
        let items = stream.then(|| {
            let sender = sender(request);
            quote!(, items: #sender)
        });
        let docs = docs_or(docs, || format!("Answers [`{}`].", path(request)));
        quote! {
            #docs
            fn #function(
                &self,
                request: #request #items
            ) -> impl ::core::future::Future<
                Output = ::core::result::Result<
                    <#request as ::rpc::Request>::Ack,
                    <#request as ::rpc::Request>::Rejection,
                >,
            > + ::core::marker::Send;
        }
    });
    quote! {
        #[doc = #summary]
        ///
        /// Implement it with `async fn`. `Ok` means that the request was applied, `Err` that nothing was. A handler
        /// that panics is answered as `Unknown` at once; one whose caller goes away is dropped at its next `.await`.
        #visibility trait #handler: ::core::marker::Send + ::core::marker::Sync + 'static {
            #(#functions)*
        }
    }
}

fn service(input: &DeriveInput, methods: &[Method<'_>]) -> TokenStream {
    let (protocol, visibility) = (&input.ident, &input.vis);
    let (handler, service) = (handler_name(protocol), service_name(protocol));
    let summary = format!("A [`{handler}`] as the [`Service`](rpc::Service) of [`{protocol}`].");
    let arms = methods.iter().map(|Method { variant, request, function, stream, .. }| match stream {
        true => quote! {
            #protocol::#variant(request) => {
                let items = raw.items();
                ::rpc::Answer::of::<#request>(#handler::#function(&*handler, request, items).await)
            }
        },
        false => quote! {
            #protocol::#variant(request) => {
                ::rpc::Answer::of::<#request>(#handler::#function(&*handler, request).await)
            }
        },
    });
    quote! {
        #[doc = #summary]
        #visibility struct #service(::rpc::Service<#protocol>);

        #[automatically_derived]
        impl<H: #handler> ::core::convert::From<H> for #service {
            fn from(handler: H) -> Self {
                let handler = ::std::sync::Arc::new(handler);
                Self(::rpc::Service::new(move |request: #protocol, raw: ::rpc::RawResponder| {
                    let handler = ::std::sync::Arc::clone(&handler);
                    async move {
                        // Kept until the handler has answered, also where it has no stream to open.
                        let _ = &raw;
                        match request {
                            #(#arms)*
                        }
                    }
                }))
            }
        }

        #[automatically_derived]
        impl ::core::convert::From<#service> for ::rpc::Service<#protocol> {
            fn from(service: #service) -> Self {
                service.0
            }
        }
    }
}

fn call(input: &DeriveInput, methods: &[Method<'_>]) -> TokenStream {
    let (protocol, visibility) = (&input.ident, &input.vis);
    let call = call_name(protocol);
    let summary =
        format!("A request of [`{protocol}`] with what answers it, for actors that answer later or elsewhere.");
    let variants = methods.iter().map(|Method { variant, docs, request, stream, .. }| {
        let items = stream.then(|| {
            let sender = sender(request);
            quote!(, #sender)
        });
        let docs = docs_or(docs, || format!("[`{}`].", path(request)));
        quote! {
            #docs
            #variant(#request, ::rpc::Responder<#request> #items)
        }
    });
    let names = methods.iter().map(|Method { variant, .. }| {
        let name = variant.to_string();
        quote!(Self::#variant(..) => #name)
    });
    quote! {
        #[doc = #summary]
        ///
        /// Dropped, it is answered as `Unknown` at once. `Debug` prints the variant's name.
        #[must_use = "a dropped call is answered as `Unknown`"]
        #visibility enum #call {
            #(#variants,)*
        }

        #[automatically_derived]
        impl ::core::fmt::Debug for #call {
            fn fmt(&self, f: &mut ::core::fmt::Formatter<'_>) -> ::core::fmt::Result {
                f.write_str(match self {
                    #(#names,)*
                })
            }
        }
    }
}

/// The sending end of the stream that `request` opens.
fn sender(request: &Type) -> TokenStream {
    quote! {
        ::rpc::ItemSender<<#request as ::rpc::StreamRequest>::Item, <#request as ::rpc::StreamRequest>::Lossy>
    }
}

fn docs_or(docs: &[&Attribute], default: impl FnOnce() -> String) -> TokenStream {
    if docs.is_empty() {
        let default = default();
        return quote!(#[doc = #default]);
    }
    quote!(#(#docs)*)
}

/// A type as documentation links to it.
fn path(of: &Type) -> String {
    of.to_token_stream().to_string().replace(' ', "")
}

fn handler_name(protocol: &Ident) -> Ident {
    format_ident!("{protocol}Handler")
}

fn service_name(protocol: &Ident) -> Ident {
    format_ident!("{protocol}Service")
}

fn call_name(protocol: &Ident) -> Ident {
    format_ident!("{protocol}Call")
}
