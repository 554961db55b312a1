//! The macros that make a component of an author's type. On targets other than WebAssembly they only check the type,
//! so that a plugin's crate builds and is tested like any other.

/// Makes the crate a filter plugin whose rules are values of this [`Filter`](crate::Filter) type. Use it once, in the
/// root of a `cdylib` crate.
#[macro_export]
macro_rules! export_filter {
    ($filter:ty) => {
        $crate::export_filter_set!($crate::EachRule<$filter>);
    };
}

/// Makes the crate a filter plugin of this [`FilterSet`](crate::FilterSet) type. Use it once, in the root of a `cdylib`
/// crate.
#[cfg(target_family = "wasm")]
#[macro_export]
macro_rules! export_filter_set {
    ($set:ty) => {
        const _: () = {
            ::std::thread_local! {
                static SET: ::std::cell::RefCell<$set> = ::std::default::Default::default();
            }

            struct Plugin;

            impl $crate::bindings::filter::exports::tidegate::plugin::filtering::Guest for Plugin {
                fn configure(
                    config: ::std::string::String,
                ) -> ::std::result::Result<($crate::Rule, $crate::Wants), ::std::string::String>
                {
                    SET.with_borrow_mut(|set| $crate::FilterSet::configure(set, &config))
                }

                fn release(rule: $crate::Rule) {
                    SET.with_borrow_mut(|set| $crate::FilterSet::release(set, rule));
                }

                fn evaluate(
                    events: ::std::vec::Vec<$crate::Event>,
                    rules: ::std::vec::Vec<$crate::Rule>,
                ) -> ::std::vec::Vec<$crate::Match> {
                    let mut matches = ::std::vec::Vec::new();
                    SET.with_borrow_mut(|set| {
                        $crate::FilterSet::evaluate(set, &events, &rules, &mut matches)
                    });
                    matches
                }
            }

            $crate::bindings::filter::export_filter_world!(
                Plugin with_types_in $crate::bindings::filter
            );
        };
    };
}

/// Makes the crate a filter plugin of this [`FilterSet`](crate::FilterSet) type. On this target it only checks that the
/// type is one.
#[cfg(not(target_family = "wasm"))]
#[macro_export]
macro_rules! export_filter_set {
    ($set:ty) => {
        const _: fn() = $crate::check_filter_set::<$set>;
    };
}

/// Makes the crate a transform plugin whose rules are values of this [`Transform`](crate::Transform) type. Use it once,
/// in the root of a `cdylib` crate.
#[cfg(target_family = "wasm")]
#[macro_export]
macro_rules! export_transform {
    ($transform:ty) => {
        const _: () = {
            ::std::thread_local! {
                static SET: ::std::cell::RefCell<$crate::TransformSet<$transform>> =
                    ::std::default::Default::default();
            }

            struct Plugin;

            impl $crate::bindings::transform::exports::tidegate::plugin::transforming::Guest
                for Plugin
            {
                fn configure(
                    config: ::std::string::String,
                ) -> ::std::result::Result<($crate::Rule, $crate::Wants), ::std::string::String>
                {
                    SET.with_borrow_mut(|set| set.configure(&config))
                }

                fn release(rule: $crate::Rule) {
                    SET.with_borrow_mut(|set| set.release(rule));
                }

                fn apply(
                    rule: $crate::Rule,
                    events: ::std::vec::Vec<$crate::Event>,
                ) -> ::std::vec::Vec<::std::result::Result<$crate::Outcome, $crate::Failure>>
                {
                    SET.with_borrow(|set| set.apply(rule, &events))
                }
            }

            $crate::bindings::transform::export_transform_world!(
                Plugin with_types_in $crate::bindings::transform
            );
        };
    };
}

/// Makes the crate a transform plugin whose rules are values of this [`Transform`](crate::Transform) type. On this
/// target it only checks that the type is one.
#[cfg(not(target_family = "wasm"))]
#[macro_export]
macro_rules! export_transform {
    ($transform:ty) => {
        const _: fn() = $crate::check_transform::<$transform>;
    };
}
