//! The HTTP engines: every test of how HTTP behaves is run for each of them.

tokio::task_local! {
    /// The engine of the gateways that a test starts.
    pub static ENGINE: &'static str;
}

/// Makes a test of each of these functions for every engine, named `pingora::FUNCTION` and `relay::FUNCTION`; what stands in parentheses goes
/// to `tokio::test`. A function that is not in the list is dead code, so none is forgotten.
macro_rules! for_each_engine {
    ($($tests:tt)*) => {
        $crate::support::engine::with_engine! { pingora { $($tests)* } }
        $crate::support::engine::with_engine! { relay { $($tests)* } }
    };
}

/// The tests of one engine, in a module of its name.
macro_rules! with_engine {
    ($engine:ident { $($test:ident $(($($how:tt)*))?),* $(,)? }) => {
        mod $engine {
            $(
                #[tokio::test$(($($how)*))?]
                async fn $test() {
                    $crate::support::engine::ENGINE.scope(stringify!($engine), super::$test()).await;
                }
            )*
        }
    };
}

pub(crate) use {for_each_engine, with_engine};
