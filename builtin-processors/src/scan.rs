//! Scans bytes for many patterns at once, without running a regex engine over them.
//!
//! Most patterns that people write hold a stretch of fixed length: three digits, a hyphen, two
//! digits, a hyphen, four digits. `rows` finds the most telling such stretches in a pattern's HIR. A
//! [`Gate`] looks for the rows of all its patterns together, whether they are five or a hundred: of
//! each row it takes a *window* of up to twelve places, puts the rows into at most 8, 16 or 32 buckets,
//! and asks of every position at once in which buckets a window may lie there. Each place costs two
//! look-ups in tables of sixteen, for 32 positions and 8 buckets together, as in Hyperscan's "Teddy";
//! here with classes instead of letters. Nearly all bytes pass by that alone; where a bucket answers,
//! its rows are compared, and where a row lies, the regex decides.
//!
//! Promises that [`Gate::scan`] misses no match, and shows exactly the places where rows lie. Rows are
//! of bytes; a character beyond ASCII that a class of the pattern also takes in (`\d` means every digit
//! of Unicode) is found by its first byte instead, which is a row of one place.
//!
//! There are two engines, and a property test that they agree: `scalar` runs everywhere, `avx2` where
//! the processor has it.

use std::ops::{ControlFlow, Range};

pub(crate) use byte_set::ByteSet;
pub use lines::find_line_ends;
use rows::Places;
pub(crate) use rows::Rows;
pub(crate) use words::{SHORTEST_WORD, Words};

mod anchors;
#[cfg(target_arch = "x86_64")]
mod avx2;
mod byte_set;
mod lines;
mod rows;
mod scalar;
mod words;

/// Places of a row that the tables are about.
const WINDOW: usize = 12;

/// Most places of the window that are looked up at every position; the others where these answer. Which
/// they are, and how many, is what costs least on a sample of log lines.
const FIRST: usize = 8;

/// Blocks of positions that are looked at before the answers of any of them are: at first, then twice
/// as many each time.
#[cfg(target_arch = "x86_64")]
const FEWEST_BLOCKS: usize = 8;

/// First places of a window, which should tell much.
const STRICT: usize = 4;

/// Fewest such places.
const FEWEST_FIRST: usize = 2;

/// What looking up a place of one group costs for 64 positions, and what an answer costs, which is then
/// compared with the rows; nanoseconds, by `cargo bench -p streamgate-processors`.
const COST_OF_PLACE: f64 = 1.4;
const COST_OF_ANSWER: f64 = 12.0;

/// Buckets that one look-up is about: the bits of a byte.
const BUCKETS: usize = 8;

/// Most rows for one and for two look-ups at each place. More rows get four.
///
/// Fewer rows in a bucket answer less often in vain, but each look-up takes time everywhere.
/// Measured with `cargo bench -p streamgate-processors`.
const ROWS_FOR_ONE: usize = 24;
const ROWS_FOR_TWO: usize = 200;

/// More rows than this are put into buckets by their order, and not by what they have in common.
const MAX_COMPARED_ROWS: usize = 400;

/// Looks for the rows of many patterns.
#[derive(Clone, Debug)]
pub(crate) struct Gate {
    rows: Vec<Row>,
    groups: Vec<Group>,
    #[cfg_attr(
        not(target_arch = "x86_64"),
        expect(dead_code, reason = "only the vector engine reads it")
    )]
    first: First,
    /// The places of the window, those that are not looked up first before the others; for each, by
    /// the low and by the high half of a byte, the buckets of all groups that have such a byte there.
    #[cfg_attr(
        not(target_arch = "x86_64"),
        expect(dead_code, reason = "only the vector engine reads it")
    )]
    by_half: Box<[(usize, [[u32; 16]; 2])]>,
}

/// The places of the window that are looked up first.
#[derive(Clone, Copy, Debug, PartialEq)]
struct First {
    places: [usize; FIRST],
    /// How many of them.
    count: usize,
    /// Which share of the positions of the sample they leave.
    rate: f64,
    /// Whether no bucket has a byte beyond ASCII at any of `places`.
    is_ascii: bool,
}

/// A place where a row lies.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(crate) struct Hit {
    /// The first byte of the row's window.
    pub(crate) at: usize,
    /// The number of the pattern that the row belongs to.
    pub(crate) owner: usize,
}

#[derive(Clone, Debug)]
struct Row {
    places: Vec<ByteSet>,
    /// Where in the row its window begins.
    window: usize,
    /// Bytes that do not stand right before the row, or behind it.
    not_before: ByteSet,
    not_behind: ByteSet,
    owner: usize,
}

/// Eight buckets of rows.
#[derive(Clone, Debug)]
struct Group {
    buckets: [Bucket; BUCKETS],
    /// For each place of the window, by the low and by the high half of a byte, the buckets that
    /// have such a byte there.
    #[cfg_attr(
        not(target_arch = "x86_64"),
        expect(dead_code, reason = "only the vector engine reads it")
    )]
    tables: [Table; WINDOW],
}

/// Rows that are looked for together.
#[derive(Clone, Debug, Default)]
struct Bucket {
    shelves: Vec<Shelf>,
}

/// Up to 64 rows of a bucket.
#[derive(Clone, Debug)]
struct Shelf {
    rows: Vec<usize>,
    /// For each place of the window, by the low and by the high half of a byte, the rows that may
    /// have such a byte there: a bit each.
    by_half: Box<[[[u64; 16]; 2]; WINDOW]>,
}

#[derive(Clone, Copy, Debug, Default)]
struct Table {
    of_low_half: [u8; 16],
    of_high_half: [u8; 16],
}

impl Gate {
    /// Makes the gate of some patterns, each with the number that its hits shall have.
    pub(crate) fn new<'a>(patterns: impl IntoIterator<Item = (usize, &'a Rows)>) -> Self {
        let mut rows = Vec::new();
        for (owner, pattern) in patterns {
            let row = |places| Row::new(places, pattern.never_beside, owner);
            rows.extend(pattern.rows.iter().map(row));
            if !pattern.beyond.is_empty() {
                let place = Places {
                    sets: vec![pattern.beyond],
                    begins: false,
                    ends: false,
                };
                rows.push(Row::new(&place, ByteSet::default(), owner));
            }
        }
        let groups = match rows.len() {
            0 => 0,
            1..=ROWS_FOR_ONE => 1,
            rows if rows <= ROWS_FOR_TWO => 2,
            _ => 4,
        };
        let groups = buckets(&rows, groups * BUCKETS)
            .chunks(BUCKETS)
            .map(|buckets| Group::new(buckets, &rows))
            .collect::<Vec<_>>();
        let first = First::of(&groups);
        Self {
            by_half: by_half(&groups, first),
            rows,
            groups,
            first,
        }
    }

    /// Returns how many bytes before a hit of the pattern a match may begin, if there is a bound.
    pub(crate) fn reach_back(pattern: &Rows) -> Option<usize> {
        let windows = pattern
            .rows
            .iter()
            .map(|row| most_telling_window(&row.sets));
        let windows = windows.max().unwrap_or(0);
        // The place in a row that a longer character stands at is not known.
        let longest = pattern
            .rows
            .iter()
            .map(|row| row.sets.len())
            .max()
            .unwrap_or(0);
        let beyond = match pattern.beyond.is_empty() {
            true => 0,
            false => 4 * longest.max(MAX_ROW_PLACES),
        };
        pattern.before?.checked_add(windows.max(beyond))
    }

    /// Shows where rows lie in `haystack`, by ascending place from `at` on, until told to stop. A row
    /// may begin before `at`, but its window does not.
    pub(crate) fn scan<B>(
        &self,
        haystack: &[u8],
        at: usize,
        visit: impl FnMut(Hit) -> ControlFlow<B>,
    ) -> ControlFlow<B> {
        self.scan_part(haystack, at..haystack.len(), visit)
    }

    /// As [`scan`](Self::scan), for rows whose window begins in `part`. They may end behind it.
    pub(crate) fn scan_part<B>(
        &self,
        haystack: &[u8],
        part: Range<usize>,
        mut visit: impl FnMut(Hit) -> ControlFlow<B>,
    ) -> ControlFlow<B> {
        #[cfg(target_arch = "x86_64")]
        if has_vectors() {
            return self.answers(haystack, part, |at| self.confirm(haystack, at, &mut visit));
        }
        scalar::scan(self, haystack, part, visit)
    }

    /// Shows the positions that the tables answer to. What is known of a few blocks is gathered
    /// before it is looked at: a branch at each block would be mispredicted at each answer, which
    /// costs as much as 100 bytes.
    #[cfg(target_arch = "x86_64")]
    fn answers<B>(
        &self,
        haystack: &[u8],
        part: Range<usize>,
        mut visit: impl FnMut(usize) -> ControlFlow<B>,
    ) -> ControlFlow<B> {
        let mut answers = avx2::Answers::new();
        // Whoever stops at the first hit has little scanned in vain.
        let mut blocks = FEWEST_BLOCKS;
        let mut at = part.start;
        while at < part.end {
            let end = part.end.min(at.saturating_add(blocks * avx2::STEP));
            match self.first.is_ascii {
                true => self.look_up::<true>(haystack, at..end, &mut answers),
                false => self.look_up::<false>(haystack, at..end, &mut answers),
            }
            for &(start, mut positions) in answers.blocks() {
                while positions != 0 {
                    visit(start + positions.trailing_zeros() as usize)?;
                    positions &= positions - 1;
                }
            }
            at = end;
            blocks = (2 * blocks).min(avx2::MOST_BLOCKS);
        }
        ControlFlow::Continue(())
    }

    /// Makes a gate that only answers, see [`find_answer`](Self::find_answer): at the windows of eight buckets.
    fn of_buckets(buckets: &[[ByteSet; WINDOW]; BUCKETS]) -> Self {
        let mut tables = [Table::default(); WINDOW];
        for (bucket, window) in buckets.iter().enumerate() {
            for (table, set) in tables.iter_mut().zip(window) {
                table.insert(set, 1 << bucket);
            }
        }
        let buckets = std::array::from_fn(|_| Bucket::default());
        let groups = vec![Group { buckets, tables }];
        let first = First::of(&groups);
        Self {
            rows: Vec::new(),
            by_half: Box::default(),
            groups,
            first,
        }
    }

    /// Shows positions, from `at` on, until told to stop: all where the tables answer, and maybe others.
    fn find_answer<B>(
        &self,
        haystack: &[u8],
        at: usize,
        visit: impl FnMut(usize) -> ControlFlow<B>,
    ) -> Option<B> {
        #[cfg(target_arch = "x86_64")]
        if has_vectors() {
            let stopped = self.answers(haystack, at..haystack.len(), visit);
            return stopped.break_value();
        }
        (at..haystack.len()).try_for_each(visit).break_value()
    }

    /// What the tables cost on ordinary log lines, in nanoseconds for 64 positions.
    fn cost(&self) -> f64 {
        self.first.cost(self.groups.len())
    }

    /// Finds the next place at or after `at` where a row lies.
    pub(crate) fn find(&self, haystack: &[u8], at: usize) -> Option<usize> {
        match self.scan(haystack, at, ControlFlow::Break) {
            ControlFlow::Break(hit) => Some(hit.at),
            ControlFlow::Continue(()) => None,
        }
    }

    /// Finds the first place in a part where a row lies; its end may be behind the part.
    pub(crate) fn find_in(&self, haystack: &[u8], part: Range<usize>) -> Option<usize> {
        match self.scan_part(haystack, part, ControlFlow::Break) {
            ControlFlow::Break(hit) => Some(hit.at),
            ControlFlow::Continue(()) => None,
        }
    }

    /// Finds the positions that the first places answer to.
    #[cfg(target_arch = "x86_64")]
    fn look_up<const A: bool>(&self, haystack: &[u8], part: Range<usize>, out: &mut avx2::Answers) {
        let (groups, first) = (self.groups.as_slice(), &self.first.places);
        match (groups.len(), self.first.count) {
            (0, _) => out.clear(),
            (1, 0..=2) => avx2::scan::<1, 2, A>(groups, first, haystack, part, out),
            (1, 3) => avx2::scan::<1, 3, A>(groups, first, haystack, part, out),
            (1, 4) => avx2::scan::<1, 4, A>(groups, first, haystack, part, out),
            (1, 5) => avx2::scan::<1, 5, A>(groups, first, haystack, part, out),
            (1, 6) => avx2::scan::<1, 6, A>(groups, first, haystack, part, out),
            (1, _) => avx2::scan::<1, 8, A>(groups, first, haystack, part, out),
            (2, 0..=4) => avx2::scan::<2, 4, A>(groups, first, haystack, part, out),
            (2, 5..=6) => avx2::scan::<2, 6, A>(groups, first, haystack, part, out),
            (2, _) => avx2::scan::<2, 8, A>(groups, first, haystack, part, out),
            (_, 0..=4) => avx2::scan::<4, 4, A>(groups, first, haystack, part, out),
            (_, 5..=6) => avx2::scan::<4, 6, A>(groups, first, haystack, part, out),
            _ => avx2::scan::<4, 8, A>(groups, first, haystack, part, out),
        }
    }

    /// Shows the rows that do lie at a place.
    #[cfg(target_arch = "x86_64")]
    fn confirm<B>(
        &self,
        haystack: &[u8],
        at: usize,
        visit: &mut impl FnMut(Hit) -> ControlFlow<B>,
    ) -> ControlFlow<B> {
        let mut buckets = self.buckets_at(haystack, at);
        while buckets != 0 {
            let number = buckets.trailing_zeros() as usize;
            let bucket = &self.groups[number / BUCKETS].buckets[number % BUCKETS];
            for shelf in &bucket.shelves {
                let mut left = shelf.rows_at(haystack, at);
                while left != 0 {
                    let row = &self.rows[shelf.rows[left.trailing_zeros() as usize]];
                    if row.lies_at(haystack, at) {
                        let owner = row.owner;
                        visit(Hit { at, owner })?;
                    }
                    left &= left - 1;
                }
            }
            buckets &= buckets - 1;
        }
        ControlFlow::Continue(())
    }

    /// Returns the buckets that the whole window at a place answers for.
    #[cfg(target_arch = "x86_64")]
    fn buckets_at(&self, haystack: &[u8], at: usize) -> u32 {
        let mut left = u32::MAX;
        for (place, by_half) in &*self.by_half {
            if let Some(&byte) = haystack.get(at + place) {
                left &= by_half[0][usize::from(byte & 15)] & by_half[1][usize::from(byte >> 4)];
                if left == 0 {
                    break;
                }
            }
        }
        left
    }
}

/// Puts the tables of all groups side by side.
fn by_half(groups: &[Group], first: First) -> Box<[(usize, [[u32; 16]; 2])]> {
    let (looked_up, others): (Vec<usize>, Vec<usize>) =
        (0..WINDOW).partition(|place| first.places[..first.count].contains(place));
    let of_place = |place: usize| {
        let mut by_half = [[0; 16]; 2];
        for (number, group) in groups.iter().enumerate() {
            let Table {
                of_low_half,
                of_high_half,
            } = group.tables[place];
            for (all, own) in by_half.iter_mut().zip([of_low_half, of_high_half]) {
                for (all, own) in all.iter_mut().zip(own) {
                    *all |= u32::from(own) << (number * BUCKETS);
                }
            }
        }
        (place, by_half)
    };
    others.into_iter().chain(looked_up).map(of_place).collect()
}

impl First {
    /// Chooses, one after the other, the place that leaves the fewest positions of the sample; then
    /// how many of them are worth looking up everywhere.
    fn of(groups: &[Group]) -> Self {
        let mut first = Self {
            places: [0; FIRST],
            count: FEWEST_FIRST,
            rate: 0.0,
            is_ascii: false,
        };
        let sample = rows::SAMPLE;
        let positions = sample.len().saturating_sub(WINDOW);
        // For each group and place, the buckets by byte.
        let buckets: Vec<[[u8; 256]; WINDOW]> = groups.iter().map(Group::by_byte).collect();
        // For each group, what the places so far leave of each position.
        let mut left = vec![vec![u8::MAX; positions]; groups.len()];
        let mut least = f64::INFINITY;
        let mut best_so_far = first;
        for chosen in 0..FIRST {
            let remaining = |place: usize| {
                (0..positions)
                    .filter(|&at| {
                        let byte = usize::from(sample[at + place]);
                        let mut groups = left.iter().zip(&buckets);
                        groups.any(|(left, buckets)| left[at] & buckets[place][byte] != 0)
                    })
                    .count()
            };
            let others = (0..WINDOW).filter(|place| !first.places[..chosen].contains(place));
            let best = others.map(|place| (remaining(place), place)).min();
            let Some((remaining, place)) = best else {
                break;
            };
            for (left, buckets) in left.iter_mut().zip(&buckets) {
                for (at, left) in left.iter_mut().enumerate() {
                    *left &= buckets[place][usize::from(sample[at + place])];
                }
            }
            first.places[chosen] = place;
            let rate = rows::share(remaining, positions.max(1));
            let so_far = Self {
                count: chosen + 1,
                rate,
                ..first
            };
            let cost = so_far.cost(groups.len());
            if so_far.count >= FEWEST_FIRST && cost < least {
                least = cost;
                best_so_far = so_far;
            }
        }
        best_so_far.places = first.places;
        // There is code for these counts.
        best_so_far.count = match (groups.len(), best_so_far.count) {
            (0 | 1, count @ ..=6) => count,
            (_, ..=4) => 4,
            (_, ..=6) => 6,
            _ => FIRST,
        };
        let is_ascii = |place: &usize| {
            groups
                .iter()
                .all(|group| group.tables[*place].of_high_half[8..] == [0; 8])
        };
        best_so_far.is_ascii = best_so_far.places[..best_so_far.count].iter().all(is_ascii);
        best_so_far
    }

    /// What the places cost on ordinary log lines, in nanoseconds for 64 positions.
    fn cost(&self, groups: usize) -> f64 {
        rows::share(groups * self.count, 1) * COST_OF_PLACE + 64.0 * self.rate * COST_OF_ANSWER
    }
}

/// The longest escape in a JSON string: what stands behind one stands behind no letter or digit.
const LONGEST_ESCAPE: usize = 6;

/// Places of the longest row that there is.
const MAX_ROW_PLACES: usize = 24;

impl Row {
    fn new(row: &Places, never_beside: ByteSet, owner: usize) -> Self {
        let beside = |is_edge| match is_edge {
            true => never_beside,
            false => ByteSet::default(),
        };
        Self {
            window: most_telling_window(&row.sets),
            places: row.sets.clone(),
            not_before: beside(row.begins),
            not_behind: beside(row.ends),
            owner,
        }
    }

    /// Whether the whole row lies in `haystack` such that its window begins at `at`.
    fn lies_at(&self, haystack: &[u8], at: usize) -> bool {
        let Some(start) = at.checked_sub(self.window) else {
            return false;
        };
        let Some(bytes) = haystack.get(start..start + self.places.len()) else {
            return false;
        };
        let lies = |(set, &byte): (&ByteSet, &u8)| set.contains(byte);
        if !self.places.iter().zip(bytes).all(lies) {
            return false;
        }
        if let Some(&behind) = haystack.get(start + self.places.len())
            && self.not_behind.contains(behind)
        {
            return false;
        }
        let before = &haystack[start.saturating_sub(LONGEST_ESCAPE)..start];
        !before
            .last()
            .is_some_and(|&byte| self.not_before.contains(byte))
            || before.contains(&b'\\')
    }

    /// The set at each place of the window; anything, behind the row.
    fn window(&self) -> [ByteSet; WINDOW] {
        let mut window = [ByteSet::ALL; WINDOW];
        for (set, place) in window.iter_mut().zip(&self.places[self.window..]) {
            *set = *place;
        }
        window
    }
}

/// Finds where the window of a row begins best: where the fewest positions of log text answer, above
/// all to its first places.
fn most_telling_window(places: &[ByteSet]) -> usize {
    let last = places.len().saturating_sub(WINDOW);
    let cost = |window: usize| {
        let places = &places[window..places.len().min(window + WINDOW)];
        let rate = |most: usize| {
            let places = &places[..places.len().min(most)];
            rows::rate_in_sample(places) + rows::likelihood(places)
        };
        // What passes the first places costs little, what passes them all costs a comparison.
        rate(STRICT) + rate(2 * STRICT) + 4.0 * rate(WINDOW)
    };
    (0..=last)
        .map(|window| (cost(window), window))
        .min_by(|a, b| a.0.total_cmp(&b.0))
        .map_or(0, |(_, window)| window)
}

/// Spreads rows over buckets, alike ones together; some buckets may stay empty.
fn buckets(rows: &[Row], most: usize) -> Vec<Vec<usize>> {
    let mut sorted: Vec<(usize, [ByteSet; WINDOW])> =
        rows.iter().map(Row::window).enumerate().collect();
    sorted.sort_by_key(|(_, window)| *window);
    let mut buckets: Vec<(Vec<usize>, [ByteSet; WINDOW])> = Vec::new();
    if rows.len() > MAX_COMPARED_ROWS {
        let size = rows.len().div_ceil(most);
        let chunks = sorted.chunks(size);
        buckets.extend(chunks.map(|chunk| {
            let union = chunk
                .iter()
                .skip(1)
                .fold(chunk[0].1, |a, b| union(&a, &b.1));
            (chunk.iter().map(|(row, _)| *row).collect(), union)
        }));
    } else {
        buckets.extend(sorted.into_iter().map(|(row, window)| (vec![row], window)));
        merge_alike(&mut buckets, most);
    }
    let mut buckets: Vec<Vec<usize>> = buckets.into_iter().map(|(rows, _)| rows).collect();
    buckets.resize(most, Vec::new());
    buckets
}

/// Merges the two buckets whose union answers least often, beyond what they answer to alone, until
/// no more than `most` are left.
fn merge_alike(buckets: &mut Vec<(Vec<usize>, [ByteSet; WINDOW])>, most: usize) {
    // What passes the first places costs a little too.
    let cost = |sets: &[ByteSet; WINDOW]| {
        let sets = sets.map(|set| set.by_halves());
        rows::likelihood(&sets) + rows::likelihood(&sets[..STRICT]) / 16.0
    };
    let mut alone: Vec<f64> = buckets.iter().map(|(_, sets)| cost(sets)).collect();
    let pair = |buckets: &[(Vec<usize>, [ByteSet; WINDOW])], alone: &[f64], a: usize, b: usize| {
        cost(&union(&buckets[a].1, &buckets[b].1)) - alone[a] - alone[b]
    };
    // For each bucket, its cheapest partner among those before it.
    let cheapest = |buckets: &[(Vec<usize>, [ByteSet; WINDOW])], alone: &[f64], b: usize| {
        (0..b)
            .map(|a| (pair(buckets, alone, a, b), a))
            .min_by(|x, y| x.0.total_cmp(&y.0))
            .unwrap_or((f64::INFINITY, 0))
    };
    let mut partners: Vec<(f64, usize)> = (0..buckets.len())
        .map(|b| cheapest(buckets, &alone, b))
        .collect();
    while buckets.len() > most {
        let best = (0..partners.len()).min_by(|&x, &y| partners[x].0.total_cmp(&partners[y].0));
        let Some(b) = best.filter(|&b| b > 0) else {
            return;
        };
        let a = partners[b].1;
        let (rows, sets) = buckets.remove(b);
        alone.remove(b);
        partners.remove(b);
        buckets[a].0.extend(rows);
        buckets[a].1 = union(&buckets[a].1, &sets);
        alone[a] = cost(&buckets[a].1);
        #[expect(
            clippy::needless_range_loop,
            reason = "a partner is found among the other buckets"
        )]
        for at in a..buckets.len() {
            let (_, partner) = partners[at];
            if at == a || partner == a || partner == b {
                partners[at] = cheapest(buckets, &alone, at);
                continue;
            }
            // What was behind the one that is gone moved up.
            partners[at].1 -= usize::from(partner > b);
            let with_new = pair(buckets, &alone, a, at);
            if with_new < partners[at].0 {
                partners[at] = (with_new, a);
            }
        }
    }
}

fn union(a: &[ByteSet; WINDOW], b: &[ByteSet; WINDOW]) -> [ByteSet; WINDOW] {
    std::array::from_fn(|at| a[at].union(&b[at]))
}

impl Group {
    fn new(buckets: &[Vec<usize>], rows: &[Row]) -> Self {
        let mut tables = [Table::default(); WINDOW];
        for (bucket, members) in buckets.iter().enumerate() {
            let bit = 1 << bucket;
            for row in members {
                for (table, set) in tables.iter_mut().zip(rows[*row].window()) {
                    table.insert(&set, bit);
                }
            }
        }
        Self {
            buckets: std::array::from_fn(|at| Bucket {
                shelves: buckets[at]
                    .chunks(64)
                    .map(|chunk| Shelf::new(chunk, rows))
                    .collect(),
            }),
            tables,
        }
    }

    /// For each place, the buckets by byte.
    fn by_byte(&self) -> [[u8; 256]; WINDOW] {
        self.tables.map(|table| {
            std::array::from_fn(|byte| table.of_low_half[byte & 15] & table.of_high_half[byte >> 4])
        })
    }
}

impl Table {
    /// Adds the bytes that a bucket has at the place.
    fn insert(&mut self, set: &ByteSet, bit: u8) {
        for byte in set.bytes() {
            self.of_low_half[usize::from(byte & 15)] |= bit;
            self.of_high_half[usize::from(byte >> 4)] |= bit;
        }
    }
}

impl Shelf {
    fn new(members: &[usize], rows: &[Row]) -> Self {
        let mut by_half = Box::new([[[0; 16]; 2]; WINDOW]);
        for (bit, &row) in members.iter().enumerate() {
            for (halves, set) in by_half.iter_mut().zip(rows[row].window()) {
                for byte in set.bytes() {
                    halves[0][usize::from(byte & 15)] |= 1 << bit;
                    halves[1][usize::from(byte >> 4)] |= 1 << bit;
                }
            }
        }
        Self {
            rows: members.to_vec(),
            by_half,
        }
    }

    /// Returns the rows that may lie at a place, all that do among them.
    #[cfg(target_arch = "x86_64")]
    fn rows_at(&self, haystack: &[u8], at: usize) -> u64 {
        let mut left = u64::MAX >> (64 - self.rows.len());
        for ([low, high], byte) in self.by_half.iter().zip(&haystack[at..]) {
            left &= low[usize::from(byte & 15)] & high[usize::from(byte >> 4)];
            if left == 0 {
                break;
            }
        }
        left
    }
}

#[cfg(target_arch = "x86_64")]
fn has_vectors() -> bool {
    static HAS: std::sync::OnceLock<bool> = std::sync::OnceLock::new();
    *HAS.get_or_init(|| std::is_x86_feature_detected!("avx2"))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use regex_automata::{meta::Regex, util::syntax};
    use regex_syntax::hir::Hir;

    use super::*;

    fn hir(pattern: &str) -> Hir {
        let config = syntax::Config::new().utf8(false);
        syntax::parse_with(pattern, &config).expect("compiles")
    }

    fn gate(pattern: &str) -> Option<Gate> {
        let rows = Rows::of(&hir(pattern))?;
        Some(Gate::new([(0, &rows)]))
    }

    /// All hits, in an order that does not depend on the engine.
    fn hits(scan: impl FnOnce(&mut dyn FnMut(Hit) -> ControlFlow<()>)) -> Vec<Hit> {
        let mut hits: Vec<Hit> = Vec::new();
        scan(&mut |hit| {
            assert!(hits.last().is_none_or(|last| last.at <= hit.at), "in order");
            hits.push(hit);
            ControlFlow::Continue(())
        });
        hits.sort_unstable();
        hits
    }

    fn agree(gate: &Gate, haystack: &[u8], at: usize) {
        let found = hits(|visit| _ = gate.scan(haystack, at, visit));
        let expected = hits(|visit| _ = scalar::scan(gate, haystack, at..haystack.len(), visit));
        assert_eq!(found, expected);
        assert_eq!(gate.find(haystack, at), expected.first().map(|hit| hit.at));
    }

    #[test]
    fn telling_rows_are_found() {
        for (pattern, rows) in [
            (r"(?-u)\d{3}-\d{2}-\d{4}", 1),
            (r"(?-u)\(\d{3}\) \d{3}-\d{4}", 1),
            (r"[A-Za-z0-9._%+-]+@[A-Za-z0-9.-]+\.[A-Za-z]{2,}", 1),
            (r"(?-u)\b\d{3}[ .-]?\d{3}[ .-]?\d{4}\b", 4),
            (r"(?P<key>AKIA|ASIA)[0-9A-Z]{16}", 2),
            (r"x{100}", 1),
            (r"(?:foo|bar@|\d{3}-\d{4})+", 3),
        ] {
            let found = Rows::of(&hir(pattern)).expect(pattern);
            assert!(found.are_telling(), "{pattern}: {found:?}");
            assert!(
                found.rows.len() <= rows,
                "{pattern}: {:?}",
                found.rows.len()
            );
        }
        for pattern in [r"[a-z]+", r"\w\s\w", "(?:e|t)", r"\d+"] {
            assert!(
                Rows::of(&hir(pattern)).is_none_or(|rows| !rows.are_telling()),
                "{pattern}"
            );
        }
    }

    #[test]
    fn the_distance_to_the_start_of_a_match_is_known() {
        for (pattern, bound) in [
            (r"(?-u)\d{3}-\d{2}-\d{4}", Some(11)),
            (r"(?-u)[0-9]{1,3}\.[0-9]{1,3}x", Some(8)),
            (r"(?:ab|cde)?key=(?-u:\d{16})", Some(23)),
            (r"[a-z]+@[a-z]+", None),
            (r"x*AKIA", None),
        ] {
            let rows = Rows::of(&hir(pattern)).expect(pattern);
            let back = Gate::reach_back(&rows);
            assert_eq!(back.is_some(), bound.is_some(), "{pattern}");
            assert!(back <= bound, "{pattern}: {back:?}");
        }
    }

    #[test]
    fn nested_repetitions_do_not_explode() {
        let nested = (0..20).fold("a".to_owned(), |inner, _| format!("(?:{inner}b?)+"));
        let begun = std::time::Instant::now();
        Rows::of(&hir(&nested));
        Rows::of(&hir(&format!(
            "(?:{}){{3,}}",
            "(?:a?b?c?d?){2,9}".repeat(30)
        )));
        assert!(begun.elapsed().as_secs() < 20);
    }

    #[test]
    fn digits_beyond_ascii_are_not_missed() {
        let gate = gate(r"\d{3}-\d{2}-\d{4}").expect("has a row");
        let text = "id \u{661}23-45-6789 and more text behind it to fill a block of 64 bytes";
        assert_eq!(gate.find(text.as_bytes(), 0), Some(3));
        assert_eq!(
            gate.find("naïve façade — no digits, 12-34".as_bytes(), 0),
            None
        );
    }

    #[test]
    fn many_rows_agree_too() {
        for count in [1, 30, 90, 200, 700] {
            let rows: Vec<Rows> = (0..count)
                .map(|n| Rows::of(&hir(&format!(r"k{n}[=:]\w{{3}}|[{n}x]-{n}"))).expect("has rows"))
                .collect();
            let gate = Gate::new(rows.iter().enumerate());
            let haystack = (0..400)
                .map(|n| {
                    format!(
                        "k{}=abc x-{} k{n}:1 {}",
                        n * 7 % 800,
                        n % 50,
                        "é".repeat(n % 5)
                    )
                })
                .collect::<String>();
            agree(&gate, haystack.as_bytes(), 0);
        }
    }

    fn some_pattern() -> impl Strategy<Value = String> {
        let leaf = prop_oneof![
            Just(r"\d".to_owned()),
            Just("-".to_owned()),
            Just("ab".to_owned()),
            Just("[a-f]".to_owned()),
            Just(".".to_owned()),
            Just("é".to_owned()),
            Just(r"(?-u:\xff)".to_owned()),
            Just(r"(?-u:[\x80-\xff])".to_owned()),
            Just(r"\b".to_owned()),
            Just("[^a]".to_owned()),
        ];
        leaf.prop_recursive(4, 32, 5, |inner| {
            prop_oneof![
                4 => prop::collection::vec(inner.clone(), 1..5).prop_map(|parts| parts.concat()),
                1 => (inner.clone(), inner.clone()).prop_map(|(a, b)| format!("(?:{a}|{b})")),
                2 => (inner.clone(), 0u8..4).prop_map(|(sub, n)| format!("(?:{sub}){{{n}}}")),
                1 => (inner.clone(), 0u8..3).prop_map(|(sub, n)| format!("(?:{sub}){{{n},}}")),
                1 => (inner.clone(), 0u8..3).prop_map(|(sub, n)| format!("(?:{sub}){{{n},5}}")),
                1 => inner.prop_map(|sub| format!("(?:{sub})?")),
            ]
        })
    }

    fn some_bytes() -> impl Strategy<Value = Vec<u8>> {
        let pieces: [&[u8]; 11] = [
            b"1",
            b"23",
            b"-",
            b"ab",
            b"f",
            b" ",
            b"\0",
            "é".as_bytes(),
            "\u{661}".as_bytes(),
            b"\xff",
            b"zzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzz",
        ];
        let piece = prop::sample::select(pieces.to_vec());
        prop::collection::vec(piece, 0..60).prop_map(|pieces| pieces.concat())
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(3_000))]

        #[test]
        fn no_match_is_missed(pattern in some_pattern(), haystack in some_bytes()) {
            let hir = hir(&pattern);
            let Some(rows) = Rows::of(&hir) else { return Ok(()) };
            let gate = Gate::new([(0, &rows)]);
            let regex = Regex::builder().build_from_hir(&hir).expect("compiles");
            // Every match has a hit, no further behind its start than there is room in the match,
            // and no further than the bound.
            for found in regex.find_iter(&haystack).filter(|found| !found.is_empty()) {
                let hit = gate.find(&haystack, found.start());
                prop_assert!(hit.is_some_and(|hit| hit < found.end()), "{rows:?}");
                if let (Some(hit), Some(back)) = (hit, Gate::reach_back(&rows)) {
                    prop_assert!(hit <= found.start() + back, "{rows:?}");
                }
            }
        }

        #[test]
        fn the_engines_agree(
            patterns in prop::collection::vec(some_pattern(), 1..12),
            haystack in prop_oneof![some_bytes(), prop::collection::vec(any::<u8>(), 0..300)],
            at in 0usize..100,
        ) {
            let rows: Vec<Rows> =
                patterns.iter().filter_map(|pattern| Rows::of(&hir(pattern))).collect();
            let gate = Gate::new(rows.iter().enumerate());
            agree(&gate, &haystack, at.min(haystack.len()));
        }
    }
}
