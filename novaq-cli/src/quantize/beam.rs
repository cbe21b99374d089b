//! Choosing the codewords of one vector together, by beam search.
//!
//! Every sum is one of lanes, in one written order, so that wider registers change how fast it is and nothing else.

#![allow(clippy::inline_always, reason = "the search is compiled anew for wider registers by inlining it")]

use ndarray::ArrayView2;

use super::ENTRIES;

/// `M` codebooks of 16 codewords of `d` weights.
#[derive(Clone, Debug, PartialEq)]
pub struct Codebooks {
    /// Number of codebooks, `M`.
    pub books: usize,
    /// Weights per codeword, `d`.
    pub dim: usize,
    /// The codewords, `[M][16][d]`.
    pub words: Vec<f32>,
}

impl Codebooks {
    /// Codebooks of zeros.
    pub fn zeros(books: usize, dim: usize) -> Self {
        Self { books, dim, words: vec![0.0; books * ENTRIES * dim] }
    }

    /// Codeword `entry` of codebook `book`.
    pub fn word(&self, book: usize, entry: u8) -> &[f32] {
        let at = (book * ENTRIES + usize::from(entry)) * self.dim;
        &self.words[at..at + self.dim]
    }

    /// Writes the sum of the codewords that `codes [M]` name into `out [d]`.
    pub fn decode(&self, codes: &[u8], out: &mut [f32]) {
        out.fill(0.0);
        for (book, &code) in codes.iter().enumerate() {
            for (o, w) in out.iter_mut().zip(self.word(book, code)) {
                *o += w;
            }
        }
    }
}

/// Everything about the codebooks that the search for one column group needs, in the metric `D` of that group.
#[derive(Debug)]
pub struct SearchTables {
    books: usize,
    dim: usize,
    /// Codewords with the entries innermost, `[M][d][16]`.
    words: Vec<f32>,
    /// `cᵀ D c`, `[M][16]`.
    norms: Vec<f32>,
    /// `2 cᵀ D c'` for codewords of two codebooks, `[M][16][M][16]`.
    pairs: Vec<f32>,
}

impl SearchTables {
    /// Tables for `codebooks` in the metric `metric [d, d]`.
    pub fn new(codebooks: &Codebooks, metric: ArrayView2<f32>) -> Self {
        let (books, dim) = (codebooks.books, codebooks.dim);
        let count = books * ENTRIES;
        let mut words = vec![0.0; count * dim];
        let mut weighted = vec![0.0; count * dim];
        for (index, word) in codebooks.words.chunks_exact(dim).enumerate() {
            let (book, entry) = (index / ENTRIES, index % ENTRIES);
            for j in 0..dim {
                words[(book * dim + j) * ENTRIES + entry] = word[j];
                weighted[index * dim + j] = (0..dim).map(|i| word[i] * metric[[i, j]]).sum();
            }
        }
        let mut pairs = vec![0.0; count * count];
        let mut norms = vec![0.0; count];
        for (index, word) in weighted.chunks_exact(dim).enumerate() {
            let row = &mut pairs[index * count..(index + 1) * count];
            for book in 0..books {
                let lane = &mut row[book * ENTRIES..(book + 1) * ENTRIES];
                for j in 0..dim {
                    let column = &words[(book * dim + j) * ENTRIES..(book * dim + j + 1) * ENTRIES];
                    for (o, c) in lane.iter_mut().zip(column) {
                        *o += 2.0 * word[j] * c;
                    }
                }
            }
            norms[index] = 0.5 * row[index];
        }
        Self { books, dim, words, norms, pairs }
    }

    /// Twice the inner products of codeword `entry` of `from` with the 16 codewords of `to`.
    #[inline(always)]
    fn pair(&self, from: usize, entry: u8, to: usize) -> &[f32; ENTRIES] {
        let at = ((from * ENTRIES + usize::from(entry)) * self.books + to) * ENTRIES;
        self.pairs[at..at + ENTRIES].first_chunk().expect("a row of sixteen entries")
    }
}

/// Most codebooks that one vector can have.
pub const MAX_BOOKS: usize = 8;

/// A partial choice of codewords.
#[derive(Clone, Copy, Debug)]
struct Hypothesis {
    cost: f32,
    codes: [u8; MAX_BOOKS],
}

/// Beam search with its working memory.
#[derive(Debug)]
pub struct BeamSearch {
    width: usize,
    beam: Vec<Hypothesis>,
    next: Vec<Hypothesis>,
    /// Costs of all children of the beam, `[hypothesis][16]`.
    costs: Vec<f32>,
    unary: Vec<f32>,
}

impl BeamSearch {
    /// A search that keeps the best `width` partial choices after each codebook.
    pub fn new(width: usize) -> Self {
        Self { width: width.max(1), beam: Vec::new(), next: Vec::new(), costs: Vec::new(), unary: Vec::new() }
    }

    /// Finds codes whose sum of codewords `u` comes close to a target `t` in the metric `D` of `tables`: minimises
    /// `uᵀ D u - 2 uᵀ y` with `y = D t`, `[d]`. `codes [M]` holds a first choice that is kept where the search finds
    /// nothing better; returns whether it was replaced.
    pub fn encode(&mut self, tables: &SearchTables, y: &[f32], codes: &mut [u8]) -> bool {
        self.run(tables, y, codes, false)
    }

    /// [`Self::encode`] for codes of which few are expected to change: searches only where another entry of a single codebook
    /// would be better, which takes a fraction of the time to find out.
    pub fn revise(&mut self, tables: &SearchTables, y: &[f32], codes: &mut [u8]) -> bool {
        self.run(tables, y, codes, true)
    }

    fn run(&mut self, tables: &SearchTables, y: &[f32], codes: &mut [u8], revise: bool) -> bool {
        #[cfg(target_arch = "x86_64")]
        if std::arch::is_x86_feature_detected!("avx2") {
            // SAFETY: the processor has AVX2.
            return unsafe { self.run_avx2(tables, y, codes, revise) };
        }
        self.run_portable(tables, y, codes, revise)
    }

    /// [`Self::run_portable`], compiled for registers of 256 bits.
    #[cfg(target_arch = "x86_64")]
    #[target_feature(enable = "avx2")]
    fn run_avx2(&mut self, tables: &SearchTables, y: &[f32], codes: &mut [u8], revise: bool) -> bool {
        self.run_portable(tables, y, codes, revise)
    }

    #[inline(always)]
    fn run_portable(&mut self, tables: &SearchTables, y: &[f32], codes: &mut [u8], revise: bool) -> bool {
        let books = tables.books;
        self.unary.clear();
        self.unary.extend_from_slice(&tables.norms);
        for book in 0..books {
            let lane: &mut [f32; ENTRIES] =
                self.unary[book * ENTRIES..(book + 1) * ENTRIES].first_chunk_mut().expect("sixteen entries");
            for (j, &target) in y.iter().enumerate() {
                let column = &tables.words[(book * tables.dim + j) * ENTRIES..][..ENTRIES];
                for (o, c) in lane.iter_mut().zip(column) {
                    *o -= 2.0 * target * c;
                }
            }
        }

        if revise {
            let mut book = 0;
            while book < books && self.better(tables, codes, book).is_none() {
                book += 1;
            }
            if book == books {
                return false;
            }
        }
        self.beam.clear();
        self.beam.push(Hypothesis { cost: 0.0, codes: [0; MAX_BOOKS] });
        for book in 0..books {
            self.extend(tables, book, book + 1 == books);
        }
        let mut best = self.beam[0];
        self.polish(tables, &mut best);
        let better = best.cost < self.cost(tables, codes);
        if better {
            codes.copy_from_slice(&best.codes[..books]);
        }
        better
    }

    /// Appends an entry of `book` to every hypothesis and keeps the best, only one of them if it is the `last` book.
    #[inline(always)]
    fn extend(&mut self, tables: &SearchTables, book: usize, last: bool) {
        self.costs.clear();
        let unary: &[f32; ENTRIES] = self.unary[book * ENTRIES..].first_chunk().expect("sixteen entries");
        for hypothesis in &self.beam {
            let mut lane = *unary;
            for o in &mut lane {
                *o += hypothesis.cost;
            }
            for (from, &code) in hypothesis.codes[..book].iter().enumerate() {
                for (o, p) in lane.iter_mut().zip(tables.pair(from, code, book)) {
                    *o += p;
                }
            }
            self.costs.extend_from_slice(&lane);
        }
        self.next.clear();
        let bound = if last { smallest(&self.costs) } else { self.bound() };
        let most = if last { 1 } else { self.width + self.width / 4 };
        for (parent, lane) in self.beam.iter().zip(self.costs.chunks_exact(ENTRIES)) {
            if at_most(lane, bound) == 0 {
                continue;
            }
            for (entry, &cost) in lane.iter().enumerate() {
                if cost <= bound && self.next.len() < most {
                    let mut hypothesis = *parent;
                    hypothesis.cost = cost;
                    hypothesis.codes[book] = entry as u8;
                    self.next.push(hypothesis);
                }
            }
        }
        // Costs that are not numbers pass no bound: any choice is as good then.
        if self.next.is_empty() {
            self.next.push(self.beam[0]);
        }
        std::mem::swap(&mut self.beam, &mut self.next);
    }

    /// A cost that at least `width` candidates, and few more, do not exceed. Found by bisection: comparing all
    /// candidates with a bound costs far less than sorting them.
    #[inline(always)]
    fn bound(&self) -> f32 {
        if self.costs.len() <= self.width {
            return f32::INFINITY;
        }
        let mut low = smallest(&self.costs);
        let parents = self.costs.chunks_exact(ENTRIES);
        // Each parent has a child at or below this, so it is high enough once there are `width` parents.
        let mut high = if parents.len() >= self.width {
            parents.map(smallest).fold(f32::NEG_INFINITY, f32::max)
        } else {
            self.costs.iter().copied().fold(f32::NEG_INFINITY, f32::max)
        };
        for _ in 0..16 {
            let middle = 0.5 * (low + high);
            let passing = at_most(&self.costs, middle);
            if passing >= self.width {
                high = middle;
                if passing <= self.width + self.width / 4 {
                    break;
                }
            } else {
                low = middle;
            }
        }
        high
    }

    /// Replaces single entries as long as that lowers the cost (iterated conditional modes).
    #[inline(always)]
    fn polish(&self, tables: &SearchTables, hypothesis: &mut Hypothesis) {
        let books = tables.books;
        let mut unchanged = 0;
        let mut book = 0;
        while unchanged < books {
            if let Some((new, change)) = self.better(tables, &hypothesis.codes[..books], book) {
                hypothesis.cost += change;
                hypothesis.codes[book] = new;
                unchanged = 1;
            } else {
                unchanged += 1;
            }
            book = (book + 1) % books;
        }
        hypothesis.cost = self.cost(tables, &hypothesis.codes[..books]);
    }

    /// The entry of `book` that lowers the cost most when all other codes stay, and by how much it changes; none if the
    /// present one is as good.
    #[inline(always)]
    fn better(&self, tables: &SearchTables, codes: &[u8], book: usize) -> Option<(u8, f32)> {
        let lane = self.conditional(tables, codes, book);
        let old = codes[book];
        let mut new = old;
        for (entry, &cost) in lane.iter().enumerate() {
            // The margin keeps rounding from exchanging two entries for ever.
            if cost < lane[usize::from(new)] - 1e-6 * lane[usize::from(new)].abs() {
                new = entry as u8;
            }
        }
        (new != old).then(|| (new, lane[usize::from(new)] - lane[usize::from(old)]))
    }

    /// What each entry of `book` adds to the cost when all other codes stay.
    #[inline(always)]
    fn conditional(&self, tables: &SearchTables, codes: &[u8], book: usize) -> [f32; ENTRIES] {
        let mut lane: [f32; ENTRIES] = *self.unary[book * ENTRIES..].first_chunk().expect("sixteen entries");
        for (from, &code) in codes.iter().enumerate() {
            if from != book {
                for (o, p) in lane.iter_mut().zip(tables.pair(from, code, book)) {
                    *o += p;
                }
            }
        }
        lane
    }

    /// The cost of a full choice.
    #[inline(always)]
    fn cost(&self, tables: &SearchTables, codes: &[u8]) -> f32 {
        let mut cost = 0.0;
        for (book, &code) in codes.iter().enumerate() {
            cost += self.unary[book * ENTRIES + usize::from(code)];
            for (from, &before) in codes[..book].iter().enumerate() {
                cost += tables.pair(from, before, book)[usize::from(code)];
            }
        }
        cost
    }
}

/// The smallest of some costs, over sixteen lanes.
#[inline(always)]
fn smallest(costs: &[f32]) -> f32 {
    let mut lanes = [f32::INFINITY; ENTRIES];
    for chunk in costs.chunks_exact(ENTRIES) {
        for (lane, &cost) in lanes.iter_mut().zip(chunk) {
            *lane = if cost < *lane { cost } else { *lane };
        }
    }
    lanes.iter().copied().fold(f32::INFINITY, f32::min)
}

/// How many costs do not exceed `bound`, counted in sixteen lanes that wrap: checked sums would go value by value.
#[inline(always)]
fn at_most(costs: &[f32], bound: f32) -> usize {
    let mut lanes = [0u32; ENTRIES];
    for chunk in costs.chunks_exact(ENTRIES) {
        for (lane, &cost) in lanes.iter_mut().zip(chunk) {
            *lane = lane.wrapping_add(u32::from(cost <= bound));
        }
    }
    lanes.iter().fold(0, |sum, &lane| sum + lane as usize)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::quantize::testing::{correlated_hessian, gaussian};

    /// `(t - u)ᵀ D (t - u)` for the codes that a search of `width` finds.
    fn error(width: usize, codebooks: &Codebooks, metric: ArrayView2<f32>, target: &[f32]) -> f64 {
        let y: Vec<f32> = metric.dot(&ndarray::ArrayView1::from(target)).to_vec();
        let mut codes = vec![0; codebooks.books];
        BeamSearch::new(width).encode(&SearchTables::new(codebooks, metric), &y, &mut codes);
        let mut u = vec![0.0; codebooks.dim];
        codebooks.decode(&codes, &mut u);
        let e: ndarray::Array1<f32> = target.iter().zip(&u).map(|(t, u)| t - u).collect();
        f64::from(e.dot(&metric.dot(&e)))
    }

    fn example(books: usize, dim: usize, seed: u64) -> Codebooks {
        Codebooks { books, dim, words: gaussian(books * ENTRIES, dim, seed).into_raw_vec_and_offset().0 }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(40))]

        #[test]
        fn two_codebooks_are_searched_completely(seed in 0u64..10_000) {
            let codebooks = example(2, 4, seed);
            let metric = correlated_hessian(4, seed + 1);
            let target = gaussian(1, 4, seed + 2).into_raw_vec_and_offset().0;
            let found = error(ENTRIES, &codebooks, metric.view(), &target);
            let mut best = f64::INFINITY;
            let mut u = [0.0; 4];
            for pair in 0..=255u8 {
                codebooks.decode(&[pair & 15, pair >> 4], &mut u);
                let e: ndarray::Array1<f32> = target.iter().zip(&u).map(|(t, u)| t - u).collect();
                best = best.min(f64::from(e.dot(&metric.dot(&e))));
            }
            prop_assert!((found - best).abs() <= 1e-4 * (1.0 + best), "{found} {best}");
        }
    }

    #[test]
    fn a_wide_beam_beats_a_greedy_search() {
        let codebooks = example(4, 8, 1);
        let metric = correlated_hessian(8, 2);
        let targets = gaussian(100, 8, 3);
        let sum = |width| -> f64 {
            targets
                .rows()
                .into_iter()
                .map(|target| error(width, &codebooks, metric.view(), target.to_slice().unwrap()))
                .sum()
        };
        let (greedy, narrow, wide) = (sum(1), sum(8), sum(32));
        assert!(wide < narrow && narrow < 0.8 * greedy, "{greedy} {narrow} {wide}");
    }

    #[test]
    fn a_better_first_choice_is_kept() {
        let codebooks = example(3, 4, 9);
        let tables = SearchTables::new(&codebooks, ndarray::Array2::eye(4).view());
        let mut target = vec![0.0; 4];
        codebooks.decode(&[3, 7, 11], &mut target);
        let mut codes = [3, 7, 11];
        assert!(!BeamSearch::new(1).encode(&tables, &target, &mut codes));
        assert_eq!(codes, [3, 7, 11]);
    }

    /// A revision leaves codes that no single entry improves, and searches for all others.
    #[test]
    fn revisions_search_where_it_pays() {
        let codebooks = example(4, 8, 11);
        let tables = SearchTables::new(&codebooks, ndarray::Array2::eye(8).view());
        let mut search = BeamSearch::new(4);
        let mut kept = 0;
        for target in gaussian(200, 8, 12).rows() {
            let y = target.to_vec();
            let (mut found, mut revised) = ([0; 4], [0; 4]);
            search.encode(&tables, &y, &mut found);
            kept += u32::from(!search.revise(&tables, &y, &mut found.clone()));
            search.revise(&tables, &y, &mut revised);
            if (0..4).any(|book| search.better(&tables, &[0; 4], book).is_some()) {
                assert_eq!(revised, found);
            } else {
                assert_eq!(revised, [0; 4]);
            }
        }
        assert_eq!(kept, 200);
    }

    #[test]
    fn wider_registers_change_nothing() {
        let codebooks = example(6, 8, 5);
        let metric = correlated_hessian(8, 6);
        let tables = SearchTables::new(&codebooks, metric.view());
        for target in gaussian(200, 8, 7).rows() {
            let y: Vec<f32> = metric.dot(&target).to_vec();
            let (mut wide, mut portable) = ([0; 6], [0; 6]);
            BeamSearch::new(16).encode(&tables, &y, &mut wide);
            BeamSearch::new(16).run_portable(&tables, &y, &mut portable, false);
            assert_eq!(wide, portable);
        }
    }

    #[test]
    fn undefined_targets_end_in_some_choice() {
        let codebooks = example(3, 4, 9);
        let tables = SearchTables::new(&codebooks, ndarray::Array2::eye(4).view());
        let mut codes = [1, 2, 3];
        BeamSearch::new(4).encode(&tables, &[f32::NAN; 4], &mut codes);
        assert_eq!(codes, [1, 2, 3]);
    }
}
