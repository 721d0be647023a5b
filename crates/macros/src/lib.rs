//! `#[derive(Message)]`, for the `leveret` crate, which says what it is for.

use proc_macro::TokenStream;
use quote::quote;
use syn::{DeriveInput, Error, LitStr, Member, parse_macro_input};

/// Makes a type that serde can read and write a `leveret::Message`, as JSON.
///
/// `#[message(name = "order.created", key = "id")]`: `name` is the subject it is published under
/// (required), `exchange` the exchange if it is not the bus's, `key` the field whose value is the
/// key; messages of the same key can be handled in order. With `schema` the message says what it
/// looks like: the type derives `schemars::JsonSchema`, too, and leveret has its feature `schema`.
#[proc_macro_derive(Message, attributes(message))]
pub fn derive_message(input: TokenStream) -> TokenStream {
    let input = parse_macro_input!(input as DeriveInput);
    expand(&input).unwrap_or_else(Error::into_compile_error).into()
}

#[derive(Default)]
struct Attributes {
    name: Option<LitStr>,
    exchange: Option<LitStr>,
    key: Option<LitStr>,
    schema: bool,
}

fn expand(input: &DeriveInput) -> syn::Result<proc_macro2::TokenStream> {
    let attributes = attributes(input)?;
    let Some(name) = attributes.name else {
        let text = "say what it is called: #[message(name = \"order.created\")]";
        return Err(Error::new_spanned(&input.ident, text));
    };
    if name.value().is_empty() || name.value().len() > 255 {
        return Err(Error::new_spanned(&name, "a name has 1 to 255 bytes"));
    }
    let exchange = attributes.exchange.map(|exchange| {
        quote! {
            const EXCHANGE: ::core::option::Option<&'static str> =
                ::core::option::Option::Some(#exchange);
        }
    });
    let key = match attributes.key {
        Some(key) => {
            let member: Member = key.parse()?;
            Some(quote! {
                fn key(&self) -> ::core::option::Option<::std::string::String> {
                    ::core::option::Option::Some(::std::string::ToString::to_string(&self.#member))
                }
            })
        }
        None => None,
    };
    let schema = attributes.schema.then(|| {
        quote! {
            fn schema() -> ::core::option::Option<::leveret::json::Value> {
                ::core::option::Option::Some(::leveret::json::schema::<Self>())
            }
        }
    });
    let ident = &input.ident;
    let (impl_generics, type_generics, where_clause) = input.generics.split_for_impl();
    Ok(quote! {
        impl #impl_generics ::leveret::Message for #ident #type_generics #where_clause {
            const NAME: &'static str = #name;
            const CONTENT_TYPE: ::core::option::Option<&'static str> =
                ::core::option::Option::Some(::leveret::json::CONTENT_TYPE);
            #exchange
            #key
            #schema
            fn encode(
                &self,
            ) -> ::core::result::Result<::leveret::Payload, ::leveret::CodecError> {
                ::leveret::json::encode(self)
            }
            fn decode(
                payload: &::leveret::Payload,
            ) -> ::core::result::Result<Self, ::leveret::CodecError> {
                ::leveret::json::decode(payload)
            }
        }
    })
}

fn attributes(input: &DeriveInput) -> syn::Result<Attributes> {
    let mut found = Attributes::default();
    for attribute in input.attrs.iter().filter(|attribute| attribute.path().is_ident("message")) {
        attribute.parse_nested_meta(|meta| {
            if meta.path.is_ident("schema") {
                found.schema = true;
                return Ok(());
            }
            let slot = if meta.path.is_ident("name") {
                &mut found.name
            } else if meta.path.is_ident("exchange") {
                &mut found.exchange
            } else if meta.path.is_ident("key") {
                &mut found.key
            } else {
                return Err(meta.error("there are name, exchange, key and schema"));
            };
            *slot = Some(meta.value()?.parse()?);
            Ok(())
        })?;
    }
    Ok(found)
}
