//! Words of an instruction: lower case, stems, and where clauses end.

use rust_stemmers::{Algorithm, Stemmer};

/// A word or a mark.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Token {
    /// In lower case.
    pub word: String,
    /// By which words are compared (Snowball, English).
    pub stem: String,
    /// Bytes of the text that it stands in.
    pub start: usize,
    /// End of these bytes.
    pub end: usize,
    /// Whether it is a mark that ends a clause.
    pub is_mark: bool,
}

/// Cuts a text into words and marks. A word is letters, digits and `+`, `#` and `'` inside; a hyphen separates.
pub fn tokens(text: &str) -> Vec<Token> {
    let stemmer = Stemmer::create(Algorithm::English);
    let mut tokens = Vec::new();
    let mut word_start = None;
    let finish = |from: &mut Option<usize>, to: usize, tokens: &mut Vec<Token>| {
        let Some(start) = from.take() else { return };
        let word = text[start..to].trim_end_matches(['\'', '’']).to_lowercase();
        let bare = word.trim_end_matches("'s").trim_end_matches("’s");
        let stem = stemmer.stem(bare).into_owned();
        tokens.push(Token { word, stem, start, end: to, is_mark: false });
    };
    for (at, character) in text.char_indices() {
        let inside = character.is_alphanumeric() || word_start.is_some() && "+#'’".contains(character);
        if inside {
            word_start.get_or_insert(at);
            continue;
        }
        finish(&mut word_start, at, &mut tokens);
        if ",.;:!?()&\n".contains(character) {
            let word = character.to_string();
            let end = at + character.len_utf8();
            tokens.push(Token { stem: word.clone(), word, start: at, end, is_mark: true });
        }
    }
    finish(&mut word_start, text.len(), &mut tokens);
    tokens
}

/// Stems of a phrase's words.
pub fn stems(phrase: &str) -> Vec<String> {
    tokens(phrase).into_iter().filter(|token| !token.is_mark).map(|token| token.stem).collect()
}

/// The number that a word means.
pub fn number(word: &str) -> Option<u32> {
    const WORDS: [&str; 13] = [
        "zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven",
        "twelve",
    ];
    match word {
        "a" | "an" | "another" | "someone" | "somebody" | "single" | "first" | "second" | "third"
        | "fourth" | "fifth" => Some(1),
        "pair" | "couple" | "both" => Some(2),
        "dozen" => Some(12),
        "twenty" => Some(20),
        "hundred" => Some(100),
        _ => {
            let named = WORDS.iter().position(|name| *name == word).map(|at| at as u32);
            named.or_else(|| word.parse().ok())
        }
    }
}

/// The beginning of a text, at most `bytes` of it, ended at a character.
pub fn beginning(text: &str, bytes: usize) -> &str {
    let mut end = bytes.min(text.len());
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    &text[..end]
}

/// The end of a text, at most `bytes` of it, begun at a character.
pub fn ending(text: &str, bytes: usize) -> &str {
    let mut start = text.len().saturating_sub(bytes);
    while !text.is_char_boundary(start) {
        start += 1;
    }
    &text[start..]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_marks_and_stems() {
        let words: Vec<_> = tokens("C++ front-end, it's «Ünder» way.").into_iter().map(|t| t.word).collect();
        assert_eq!(words, ["c++", "front", "end", ",", "it's", "ünder", "way", "."]);
        assert_eq!(stems("writes tests"), stems("writing test"));
        assert_eq!((number("three"), number("17"), number("fox")), (Some(3), Some(17), None));
        assert_eq!((beginning("aü", 2), ending("üa", 2)), ("a", "a"));
    }
}
