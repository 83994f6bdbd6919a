//! The HTTP engines: every test of how HTTP behaves is run for each of them.

tokio::task_local! {
    /// The engine of the gateways that a test starts.
    pub static ENGINE: &'static str;
}

/// Makes a test of each of these functions for every engine, named `pingora::FUNCTION` and `relay::FUNCTION`; what
/// stands in parentheses goes to `tokio::test`. A function that is not in the list is dead code, so none is forgotten.
macro_rules! for_each_engine {
    ($($tests:tt)*) => {
        $crate::support::engine::with_engine! { pingora { $($tests)* } }
        $crate::support::engine::with_engine! { relay { $($tests)* } }
    };
}

/// The tests of one engine, in a module of its name.
macro_rules! with_engine {
    (pingora $tests:tt) => { $crate::support::engine::with_engine! { pingora "pingora" $tests } };
    (relay $tests:tt) => { $crate::support::engine::with_engine! { relay "relay" $tests } };
    (on_the_relay $tests:tt) => { $crate::support::engine::with_engine! { on_the_relay "relay" $tests } };
    ($module:ident $engine:literal { $($test:ident $(($($how:tt)*))?),* $(,)? }) => {
        mod $module {
            $(
                #[tokio::test$(($($how)*))?]
                async fn $test() {
                    $crate::support::engine::ENGINE.scope($engine, super::$test()).await;
                }
            )*
        }
    };
}

/// The same for the relay alone: what Pingora's proxy does otherwise, and no hook of it can mend.
macro_rules! for_the_relay {
    ($($tests:tt)*) => {
        $crate::support::engine::with_engine! { on_the_relay { $($tests)* } }
    };
}

pub(crate) use {for_each_engine, for_the_relay, with_engine};
