//! Names of tensors with wildcards.

use std::fmt;
use std::str::FromStr;

use super::plan::MatrixCodec;

/// A name in which `*` stands for any characters and `?` for one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pattern(String);

impl Pattern {
    /// Whether `name` is one of those that the pattern stands for.
    pub fn matches(&self, name: &str) -> bool {
        let (pattern, name) = (self.0.as_bytes(), name.as_bytes());
        let (mut at, mut next) = (0, 0);
        // The last star and how far it reaches so far.
        let mut star = None;
        while next < name.len() {
            match pattern.get(at) {
                Some(b'*') => {
                    star = Some((at, next));
                    at += 1;
                }
                Some(&byte) if byte == b'?' || byte == name[next] => (at, next) = (at + 1, next + 1),
                _ => {
                    let Some((stars, reach)) = star else { return false };
                    star = Some((stars, reach + 1));
                    (at, next) = (stars + 1, reach + 1);
                }
            }
        }
        pattern[at..].iter().all(|&byte| byte == b'*')
    }
}

impl fmt::Display for Pattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// The codec of the matrices whose names match a pattern, written as in `model.layers.0.*=3`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Override {
    /// The names.
    pub pattern: Pattern,
    /// The codec.
    pub codec: MatrixCodec,
}

impl FromStr for Override {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text.rsplit_once('=') {
            Some((pattern, codec)) if !pattern.is_empty() => {
                Ok(Self { pattern: Pattern(pattern.to_owned()), codec: codec.parse()? })
            }
            _ => {
                Err(format!("`{text}` is no override: write `PATTERN=CODEC`, as in `model.layers.0.*=int8`"))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// What the wildcards mean, by trying everything.
    fn model(pattern: &[u8], name: &[u8]) -> bool {
        match (pattern.split_first(), name.split_first()) {
            (None, None) => true,
            (Some((b'*', rest)), None) => model(rest, name),
            (Some((b'*', rest)), Some((_, after))) => model(rest, name) || model(pattern, after),
            (Some((p, rest)), Some((n, after))) => (*p == b'?' || p == n) && model(rest, after),
            (None, Some(_)) | (Some(_), None) => false,
        }
    }

    proptest! {
        #[test]
        fn wildcards_stand_for_what_they_should(pattern in "[ab.*?]{0,7}", name in "[ab.]{0,9}") {
            let expected = model(pattern.as_bytes(), name.as_bytes());
            prop_assert_eq!(Pattern(pattern).matches(&name), expected);
        }
    }

    #[test]
    fn overrides_name_what_is_wrong() {
        let text = "model.layers.*.mlp.*=2.5".parse::<Override>().unwrap();
        assert!(text.pattern.matches("model.layers.11.mlp.up_proj.weight"));
        assert!(!text.pattern.matches("model.layers.1.self_attn.q_proj.weight"));
        assert_eq!(text.codec, MatrixCodec::for_bits(2.5).unwrap());
        for (wrong, expected) in [
            ("lm_head.weight", "is no override"),
            ("=3", "is no override"),
            ("*=5", "5 bits"),
            ("*=int3", "`int3` is no codec"),
            ("*=9x16@8", "`9x16@8` is no codec"),
        ] {
            let error = wrong.parse::<Override>().unwrap_err();
            assert!(error.contains(expected), "{error}");
        }
    }
}
