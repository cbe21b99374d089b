//! Added tokens: strings that are cut out of a text before anything else happens to it.

use serde::{Deserialize, Serialize};

use super::TokenizerError;
use super::normalizer::Normalizer;

/// A token that is found in the text itself, as `tokenizer.json` lists it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[expect(clippy::struct_excessive_bools, reason = "the fields of the file format")]
pub(super) struct AddedToken {
    pub(super) id: u32,
    pub(super) content: String,
    /// Matches only between characters that are not part of a word.
    #[serde(default)]
    pub(super) single_word: bool,
    /// Takes the white space before it.
    #[serde(default)]
    pub(super) lstrip: bool,
    /// Takes the white space behind it.
    #[serde(default)]
    pub(super) rstrip: bool,
    /// Is looked for in the normalized text, itself normalized.
    #[serde(default)]
    pub(super) normalized: bool,
    /// Can be skipped when decoding.
    #[serde(default)]
    pub(super) special: bool,
}

/// Finds some of the added tokens in a text: leftmost, longest first, without overlap.
#[derive(Debug, Clone)]
struct Finder {
    /// What to look for and which token it is, sorted by the first byte, then from long to short.
    patterns: Vec<(String, usize)>,
    /// `patterns[first[b]..first[b + 1]]` begin with the byte `b`.
    first: Vec<u32>,
}

impl Finder {
    fn new(mut patterns: Vec<(String, usize)>) -> Self {
        patterns.retain(|(pattern, _)| !pattern.is_empty());
        // A stable sort: of equal patterns the one that is listed first is found.
        patterns.sort_by_key(|(pattern, _)| (pattern.as_bytes()[0], std::cmp::Reverse(pattern.len())));
        let first = (0..=256)
            .map(|byte| {
                patterns.partition_point(|(pattern, _)| usize::from(pattern.as_bytes()[0]) < byte) as u32
            })
            .collect();
        Self { patterns, first }
    }

    /// The first match at or behind `from` that `marker` does not follow: where it begins, where it ends, which token.
    fn find(&self, text: &str, from: usize, marker: Option<char>) -> Option<(usize, usize, usize)> {
        if self.patterns.is_empty() {
            return None;
        }
        let bytes = text.as_bytes();
        (from..bytes.len()).find_map(|at| {
            let byte = usize::from(bytes[at]);
            let candidates = &self.patterns[self.first[byte] as usize..self.first[byte + 1] as usize];
            let (pattern, token) = candidates.iter().find(|(pattern, _)| {
                bytes[at..].starts_with(pattern.as_bytes())
                    && marker.is_none_or(|marker| !text[at + pattern.len()..].starts_with(marker))
            })?;
            Some((at, at + pattern.len(), *token))
        })
    }
}

/// Part of a text: between added tokens, or one of them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Segment {
    /// Text to tokenize, never empty, and whether it begins where the text begins.
    Text(String, bool),
    /// The id of an added token.
    Token(u32),
}

/// All added tokens of a tokenizer.
#[derive(Debug, Clone)]
pub(super) struct AddedTokens {
    tokens: Vec<AddedToken>,
    /// What each token is in the text that is searched for it: its content, or that normalized.
    written: Vec<String>,
    /// The indices of `tokens` in the order of their ids.
    by_id: Vec<u32>,
    raw: Finder,
    normalized: Finder,
}

/// Whether `c` belongs to a word, as `\w` does.
fn is_word(c: char) -> bool {
    c.is_alphanumeric() || c == '_'
}

impl AddedTokens {
    /// Prepares the search for `tokens`, those with `normalized` in their normalized form.
    pub(super) fn new(
        tokens: Vec<AddedToken>,
        normalizer: Option<&Normalizer>,
    ) -> Result<Self, TokenizerError> {
        let written: Vec<String> = tokens
            .iter()
            .map(|token| match normalizer {
                Some(normalizer) if token.normalized => normalizer.normalize(&token.content),
                _ => Ok(token.content.clone()),
            })
            .collect::<Result<_, _>>()?;
        // Special tokens come first where two are written alike.
        let mut order: Vec<usize> = (0..tokens.len()).collect();
        order.sort_by_key(|&at| !tokens[at].special);
        let finder = |normalized| {
            let wanted = order.iter().filter(|&&at| tokens[at].normalized == normalized);
            Finder::new(wanted.map(|&at| (written[at].clone(), at)).collect())
        };
        let (raw, normalized) = (finder(false), finder(true));
        let mut by_id: Vec<u32> = (0..tokens.len() as u32).collect();
        by_id.sort_by_key(|&at| tokens[at as usize].id);
        if let Some(pair) = by_id.windows(2).find(|p| tokens[p[0] as usize].id == tokens[p[1] as usize].id) {
            let reason = format!("id {} occurs twice", tokens[pair[0] as usize].id);
            return Err(TokenizerError::invalid("added_tokens", reason));
        }
        Ok(Self { tokens, written, by_id, raw, normalized })
    }

    /// The added tokens as they were listed.
    pub(super) fn tokens(&self) -> &[AddedToken] {
        &self.tokens
    }

    /// Where the added token with this id is listed.
    fn index(&self, id: u32) -> Option<usize> {
        let at = self.by_id.binary_search_by_key(&id, |&at| self.tokens[at as usize].id).ok()?;
        Some(self.by_id[at] as usize)
    }

    /// The added token with this id.
    pub(super) fn get(&self, id: u32) -> Option<&AddedToken> {
        self.index(id).map(|at| &self.tokens[at])
    }

    /// What a decoder is given for the added token with this id: like Hugging Face tokenizers, its normalized form
    /// if it is looked for in that.
    pub(super) fn written(&self, id: u32) -> Option<&str> {
        self.index(id).map(|at| self.written[at].as_str())
    }

    /// What special tokens are found by, none of it empty.
    pub(super) fn special_patterns(&self) -> impl Iterator<Item = &str> {
        let special = self.tokens.iter().zip(&self.written).filter(|(token, _)| token.special);
        special
            .flat_map(|(token, written)| [token.content.as_str(), written])
            .filter(|pattern| !pattern.is_empty())
    }

    /// A special token that is looked for in normalized text, and that `text` normalized holds.
    pub(super) fn normalized_special(
        &self,
        text: &str,
        normalizer: Option<&Normalizer>,
    ) -> Result<Option<&str>, TokenizerError> {
        let Some(normalizer) = normalizer else { return Ok(None) };
        let mut special = self
            .tokens
            .iter()
            .zip(&self.written)
            .filter(|(token, written)| token.special && token.normalized && !written.is_empty());
        let Some(first) = special.next() else { return Ok(None) };
        let text = normalizer.normalize(text)?;
        let found = std::iter::once(first).chain(special).find(|(_, written)| text.contains(*written));
        Ok(found.map(|(token, _)| token.content.as_str()))
    }

    /// Cuts `text` at the added tokens and normalizes what lies between them. Where `marker` stands inside of an added
    /// token or behind it, the token is text; the markers themselves are left out.
    pub(super) fn split(
        &self,
        text: &str,
        normalizer: Option<&Normalizer>,
        marker: Option<char>,
    ) -> Result<Vec<Segment>, TokenizerError> {
        let mut segments = Vec::new();
        let mut raw = Vec::new();
        self.cut(&self.raw, text, true, marker, &mut raw);
        for segment in raw {
            match segment {
                Segment::Text(text, at_start) => {
                    let text = match normalizer {
                        Some(normalizer) => normalizer.normalize(&text)?,
                        None => text,
                    };
                    self.cut(&self.normalized, &text, at_start, marker, &mut segments);
                }
                Segment::Token(_) => segments.push(segment),
            }
        }
        if let Some(marker) = marker {
            for segment in &mut segments {
                if let Segment::Text(text, _) = segment {
                    text.retain(|character| character != marker);
                }
            }
        }
        Ok(segments)
    }

    /// Cuts `text` at the tokens that `finder` finds.
    fn cut(
        &self,
        finder: &Finder,
        text: &str,
        at_start: bool,
        marker: Option<char>,
        segments: &mut Vec<Segment>,
    ) {
        let mut done = 0;
        let mut from = 0;
        let push = |from: usize, to: usize, segments: &mut Vec<Segment>| {
            if from < to {
                segments.push(Segment::Text(text[from..to].to_owned(), at_start && from == 0));
            }
        };
        while let Some((mut start, mut end, at)) = finder.find(text, from, marker) {
            let token = &self.tokens[at];
            from = end;
            if token.single_word && (text[..start].ends_with(is_word) || text[end..].starts_with(is_word)) {
                continue;
            }
            if token.lstrip {
                start = text[..start].trim_end().len().max(done);
            }
            if token.rstrip {
                end = text.len() - text[end..].trim_start().len();
            }
            push(done, start, segments);
            segments.push(Segment::Token(token.id));
            done = end;
        }
        push(done, text.len(), segments);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn token(id: u32, content: &str) -> AddedToken {
        AddedToken {
            id,
            content: content.to_owned(),
            single_word: false,
            lstrip: false,
            rstrip: false,
            normalized: false,
            special: true,
        }
    }

    fn split(tokens: Vec<AddedToken>, text: &str) -> Vec<Segment> {
        AddedTokens::new(tokens, None).unwrap().split(text, None, None).unwrap()
    }

    fn text(text: &str, at_start: bool) -> Segment {
        Segment::Text(text.to_owned(), at_start)
    }

    #[test]
    fn the_longest_token_wins() {
        let tokens = vec![token(0, "<s"), token(1, "<s>"), token(2, "<s>>")];
        assert_eq!(
            split(tokens, "a<s>b<s<s>>"),
            [text("a", true), Segment::Token(1), text("b", false), Segment::Token(0), Segment::Token(2)]
        );
    }

    #[test]
    fn strips_take_white_space() {
        let tokens = vec![AddedToken { lstrip: true, rstrip: true, ..token(7, "|") }];
        assert_eq!(
            split(tokens, "a \t| \n|b"),
            [text("a", true), Segment::Token(7), Segment::Token(7), text("b", false)]
        );
    }

    #[test]
    fn single_words_do_not_match_inside_words() {
        let tokens = vec![AddedToken { single_word: true, ..token(7, "cat") }];
        assert_eq!(split(tokens, "cats cat"), [text("cats ", true), Segment::Token(7)]);
    }
}
