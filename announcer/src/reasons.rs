//! One recipe for enums of named reasons: each variant has a fixed label for metrics, logs and
//! status, and the type can list all of them.

/// Defines an enum of reasons with `ALL` and `label()`.
macro_rules! reasons {
    (
        $(#[$outer:meta])*
        pub enum $name:ident { $($(#[doc = $doc:literal])+ $variant:ident = $label:literal,)* }
    ) => {
        $(#[$outer])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub enum $name {
            $($(#[doc = $doc])+ $variant,)*
        }

        impl $name {
            /// Every reason there is.
            pub const ALL: &'static [Self] = &[$(Self::$variant),*];

            /// The fixed name in metrics, logs and status.
            pub const fn label(self) -> &'static str {
                match self {
                    $(Self::$variant => $label,)*
                }
            }
        }

        impl std::fmt::Display for $name {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str(self.label())
            }
        }
    };
}

pub(crate) use reasons;
