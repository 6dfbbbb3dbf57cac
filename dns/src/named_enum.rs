//! Enums with a name for each variant, and the list of all variants, from one declaration.

/// Declares an enum whose variants have names. `ALL` lists the variants in their order, so that `variant as usize` is
/// an index below `COUNT`; a variant cannot lack its name or its place in the list.
macro_rules! named_enum {
    (
        $(#[$meta:meta])*
        $visibility:vis enum $enum:ident {
            $($(#[$variant_meta:meta])* $variant:ident = $name:literal,)*
        }
    ) => {
        $(#[$meta])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
        $visibility enum $enum {
            $($(#[$variant_meta])* $variant,)*
        }

        impl $enum {
            pub const ALL: [Self; Self::COUNT] = [$(Self::$variant,)*];
            pub const COUNT: usize = [$($name,)*].len();

            pub const fn name(self) -> &'static str {
                match self {
                    $(Self::$variant => $name,)*
                }
            }
        }
    };
}
