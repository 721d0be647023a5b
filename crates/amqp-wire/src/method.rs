//! Methods: what peers say to each other, apart from messages themselves.

use crate::error::{ArgumentError, DecodeError};
use crate::field::{Field, Reader, Writer};
use crate::frame;
use crate::spec::{argument_type, methods};

macro_rules! define {
    ($($class:literal { $(
        $id:literal $method:ident $name:literal
        $(carries $content:ident)? $(sync $(unless $no_wait:ident)?)?
        ($($field:ident: $type:ident),*);
    )* })*) => {
        $($(
            #[doc = concat!("`", $name, "`")]
            #[derive(Clone, Debug, Default, PartialEq, Eq)]
            pub struct $method {
                $(
                    #[doc = concat!("The argument `", stringify!($field), "`.")]
                    pub $field: argument_type!($type),
                )*
            }

            impl $method {
                /// Class and method id.
                pub const ID: (u16, u16) = ($class, $id);
                /// The name in the specification.
                pub const NAME: &'static str = $name;
                const HAS_CONTENT: bool = has_content!($($content)?);

                fn read(arguments: &[u8]) -> Result<Self, ArgumentError> {
                    #[allow(unused_mut, reason = "some have no arguments")]
                    let mut reader = Reader::new(arguments, Self::HAS_CONTENT);
                    let method = $method { $($field: Field::read(&mut reader)?,)* };
                    reader.end()?;
                    Ok(method)
                }

                #[allow(unused_variables, reason = "some have no arguments")]
                fn write(&self, writer: &mut Writer<'_>) {
                    $(self.$field.write(writer);)*
                }
            }

            impl From<$method> for Method {
                fn from(method: $method) -> Self {
                    Method::$method(method)
                }
            }
        )*)*

        /// Any method.
        #[derive(Clone, Debug, PartialEq, Eq)]
        pub enum Method {
            $($(
                #[doc = concat!("`", $name, "`")]
                $method($method),
            )*)*
        }

        impl Method {
            /// Reads the payload of a method frame.
            ///
            /// # Errors
            /// [`DecodeError`] if there is no such method or its arguments do not fit exactly.
            pub fn decode(payload: &[u8]) -> Result<Self, DecodeError> {
                let (id, arguments) = split_id(payload)?;
                match id {
                    $($(($class, $id) => match $method::read(arguments) {
                        Ok(method) => Ok(Method::$method(method)),
                        Err(reason) => Err(DecodeError::Arguments { name: $name, id, reason }),
                    },)*)*
                    (class, method) => Err(DecodeError::UnknownMethod { class, method }),
                }
            }

            /// Class and method id.
            #[must_use]
            pub fn id(&self) -> (u16, u16) {
                match self {
                    $($(Method::$method(_) => $method::ID,)*)*
                }
            }

            /// The name in the specification, such as `queue.declare`.
            #[must_use]
            pub fn name(&self) -> &'static str {
                match self {
                    $($(Method::$method(_) => $name,)*)*
                }
            }

            /// Whether a content header and a body follow it.
            #[must_use]
            pub fn has_content(&self) -> bool {
                match self {
                    $($(Method::$method(_) => $method::HAS_CONTENT,)*)*
                }
            }

            /// Whether its sender waits for an answer.
            #[must_use]
            pub fn expects_reply(&self) -> bool {
                match self {
                    $($(
                        #[allow(unused_variables, reason = "only no_wait is looked at")]
                        Method::$method(method) => {
                            false $(|| true $(&& !method.$no_wait)?)?
                        }
                    )*)*
                }
            }

            fn write_arguments(&self, writer: &mut Writer<'_>) {
                match self {
                    $($(Method::$method(method) => method.write(writer),)*)*
                }
            }
        }
    };
}

macro_rules! has_content {
    () => {
        false
    };
    (content) => {
        true
    };
}

methods!(define);

impl Method {
    /// Appends the payload of a method frame: class id, method id, arguments.
    ///
    /// # Panics
    /// If an argument takes more than 4 GiB.
    pub fn encode(&self, out: &mut Vec<u8>) {
        let (class, method) = self.id();
        out.extend_from_slice(&class.to_be_bytes());
        out.extend_from_slice(&method.to_be_bytes());
        self.write_arguments(&mut Writer::new(out));
    }

    /// Appends a whole method frame.
    ///
    /// # Panics
    /// If an argument takes more than 4 GiB.
    pub fn frame(&self, channel: u16, out: &mut Vec<u8>) {
        let start = frame::begin(out, frame::METHOD, channel);
        self.encode(out);
        frame::finish(out, start);
    }
}

/// The class and method id at the start of a method frame's payload, and the arguments.
///
/// # Errors
/// [`DecodeError::NoMethodId`] if there are fewer than four bytes.
#[inline]
pub fn split_id(payload: &[u8]) -> Result<((u16, u16), &[u8]), DecodeError> {
    match *payload {
        [c1, c0, m1, m0, ref arguments @ ..] => {
            Ok(((u16::from_be_bytes([c1, c0]), u16::from_be_bytes([m1, m0])), arguments))
        }
        _ => Err(DecodeError::NoMethodId(payload.len())),
    }
}
