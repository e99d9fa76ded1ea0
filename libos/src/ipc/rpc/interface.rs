//! The declaration of an interface, and what it becomes.

/// Declares an interface: see [`ipc::rpc`](crate::ipc::rpc).
///
/// ```text
/// libos::interface! {
///     /// What it is for.
///     pub mod NAME {
///         const VERSION: u16 = 1;
///         const PAGES: usize = 1;                      // may be left out: everything fits into registers
///         /// What it does.
///         #[idempotent]                                // may be left out: never made twice
///         fn METHOD(ARGUMENT: TYPE, ...) -> Result<TYPE, TYPE>;
///     }
/// }
/// ```
///
/// `const PAGES` bounds the bytes of the arguments and of the result. Arguments and results may be references
/// that serde can borrow (`&str`, `&Bytes`): a result then borrows from the service on one side, and on the other from the client, until its next call.
#[macro_export]
macro_rules! interface {
    (
        $(#[doc = $module_doc:expr])*
        $visibility:vis mod $module:ident {
            const VERSION: u16 = $version:expr;
            $(const PAGES: usize = $pages:expr;)?
            $(
                $(#[doc = $doc:expr])*
                $(#[idempotent] $idempotent:vis)?
                fn $method:ident($($argument:ident: $type:ty),* $(,)?) -> Result<$ok:ty, $error:ty>;
            )*
        }
    ) => {
        $(#[doc = $module_doc])*
        $visibility mod $module {
            #[allow(unused_imports, reason = "a declaration may need nothing of its surroundings")]
            use super::*;
            use $crate::ipc::rpc as __rpc;

            /// What both sides compare.
            pub const VERSION: __rpc::Version = __rpc::Version::new(
                $version,
                ::core::concat!(
                    ::core::stringify!($module),
                    $("fn ", ::core::stringify!($method), "(", $(::core::stringify!($type), ",",)* ")",
                    ::core::stringify!($ok), "!", ::core::stringify!($error), ";",)*
                ),
            );
            const __PAGES: usize = 0 $(+ $pages)?;
            const _: () = ::core::assert!(__PAGES <= __rpc::MAX_PAGES, "an interface has MAX_PAGES pages at most");

            #[allow(non_camel_case_types, reason = "methods are numbered by their names")]
            #[repr(u8)]
            enum __Method { $($method,)* __End }
            const _: () = ::core::assert!((__Method::__End as u8) < 0xf0, "an interface has 239 methods at most");

            /// Who serves it.
            pub trait Service {
                $(
                    $(#[doc = $doc])*
                    fn $method(&mut self, caller: __rpc::Caller $(, $argument: $type)*) -> ::core::result::Result<$ok, $error>;
                )*
            }

            /// A service behind this interface.
            pub struct Served<S>(pub S);

            impl<S: Service> __rpc::Dispatch for Served<S> {
                const VERSION: __rpc::Version = VERSION;
                const PAGES: usize = __PAGES;

                #[inline(always)]
                fn dispatch(
                    &mut self,
                    caller: __rpc::Caller,
                    method: u8,
                    request: &[u8],
                    reply: &mut __rpc::Reply,
                ) -> ::core::result::Result<(), __rpc::Refused> {
                    $(
                        if method == __Method::$method as u8 {
                            let ($($argument,)*): ($($type,)*) = __rpc::decode(request)?;
                            reply.answer(self.0.$method(caller $(, $argument)*));
                            return Ok(());
                        }
                    )*
                    Err(__rpc::Refused::Malformed)
                }
            }

            /// Serves it, for ever.
            #[allow(dead_code, reason = "a program is one side, mostly")]
            pub fn serve(service: impl Service) -> ! {
                __rpc::Server::new(Served(service)).serve()
            }

            /// Who calls it.
            pub struct Client(__rpc::Client);

            #[allow(dead_code, reason = "a program is one side, and needs not every method")]
            impl Client {
                /// A client of the service of this name, which the manifest must let this program call.
                pub fn named(name: &str) -> ::core::result::Result<Client, __rpc::CallError> {
                    __rpc::Client::named(VERSION, __PAGES, name).map(Client)
                }

                /// A client of whoever is behind a gate.
                pub fn over(gate: $crate::ipc::Gate) -> Client {
                    Client(__rpc::Client::over(VERSION, __PAGES, gate))
                }

                /// How long each call may take; [`PATIENCE`](__rpc::PATIENCE) unless said otherwise.
                pub fn with_patience(mut self, patience: ::core::time::Duration) -> Client {
                    self.0.set_patience(patience);
                    self
                }

                /// Trusts the server to answer: calls have no deadline, which makes them cheaper.
                pub fn trusting(mut self) -> Client {
                    self.0.trust();
                    self
                }

                $(
                    $(#[doc = $doc])*
                    #[inline]
                    pub fn $method(&mut self $(, $argument: $type)*) -> ::core::result::Result<$ok, __rpc::Error<$error>> {
                        let marks: &[&str] = &[$(::core::stringify!(idempotent $idempotent))?];
                        let repeat =
                            if marks.is_empty() { __rpc::Repeat::Never } else { __rpc::Repeat::Idempotent };
                        self.0.call(__Method::$method as u8, repeat, &($($argument,)*))
                    }
                )*
            }
        }
    };
}
