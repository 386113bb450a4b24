//! Which keys and values of an event the paths of a rule name.
//!
//! All paths are followed at once, from the outermost object inwards. Of each object and array it
//! is kept which paths lead there, and how many of their steps; a value is named when a path is at
//! its end, and so is all that is in it. A document inside a text begins anew, and goes on with
//! what led to that text, so that `user/email` and `log/user/email` both name the field in
//! `{"log":"{\"user\":{\"email\":...}}"}`.

use crate::{
    json::path::{Path, PathError, Step},
    view::{Kind, NONE, Node},
};

/// Most entries in `fields` or `except_fields`.
pub(super) const MAX_FIELDS: usize = 64;

/// Fields by their paths.
#[derive(Debug, Clone)]
pub(super) struct Fields {
    paths: Vec<Path>,
}

/// How far along a path some keys lead.
type Progress = (u16, u16);

/// What of a text is named; scratch space, which is reused.
#[derive(Debug, Clone, Default)]
pub(super) struct Selection {
    /// For each node, whether it is named.
    named: Vec<bool>,
    /// For each node, where in `progress` what is known of it stands.
    known: Vec<(u32, u32)>,
    progress: Vec<Progress>,
    /// For each array, how many of its elements were seen.
    seen: Vec<u32>,
    /// How far paths lead before and behind a part of a key with dots.
    flat: (Vec<Progress>, Vec<Progress>),
}

impl Fields {
    /// Reads paths.
    ///
    /// # Errors
    /// The number of the faulty entry, and what is wrong with it.
    pub(super) fn parse(entries: &[String], ignore_case: bool) -> Result<Self, (usize, PathError)> {
        let parse = |(at, entry): (usize, &String)| {
            Path::parse(entry, ignore_case).map_err(|error| (at, error))
        };
        let paths: Result<Vec<Path>, _> = entries.iter().enumerate().map(parse).collect();
        Ok(Self { paths: paths? })
    }

    /// Finds out which nodes of a text are named; returns whether any value is.
    pub(super) fn select(&self, text: &[u8], nodes: &[Node], selection: &mut Selection) -> bool {
        selection.clear(nodes.len());
        let mut any = false;
        for (number, node) in nodes.iter().enumerate() {
            if node.kind == Kind::Key {
                selection.push(false, selection.progress.len(), 0);
                continue;
            }
            let begun = selection.progress.len();
            let mut named = false;
            let parent = node.parent as usize;
            if node.parent == NONE {
                self.begin(selection, begun);
            } else if nodes[parent].is_quoted() {
                named = selection.named[parent];
                selection.copy(parent, begun);
                self.begin(selection, begun);
            } else {
                named = selection.named[parent];
                let (from, to) = selection.known[parent];
                let index = selection.seen[parent];
                selection.seen[parent] = index + 1;
                let key = match nodes[parent].kind {
                    Kind::Object => number
                        .checked_sub(1)
                        .map(|key| &text[nodes[key].start..nodes[key].end]),
                    _ => None,
                };
                let key = key.map(String::from_utf8_lossy);
                for at in from..to {
                    let progress = selection.progress[at as usize];
                    named |= match &key {
                        Some(key) => self.enter_member(progress, key, selection, begun),
                        None => self.enter_element(progress, index as usize, selection, begun),
                    };
                }
            }
            any |= named;
            selection.push(named, begun, selection.progress.len() - begun);
        }
        any
    }

    /// Every path begins here.
    fn begin(&self, selection: &mut Selection, begun: usize) {
        for path in 0..self.paths.len() {
            if let Ok(path) = u16::try_from(path) {
                selection.add((path, 0), begun);
            }
        }
    }

    /// Follows a path into a member; returns whether it ends there, or on the way there:
    /// `user.email` is the member `email` of `user`, written flat.
    fn enter_member(
        &self,
        progress: Progress,
        key: &str,
        selection: &mut Selection,
        begun: usize,
    ) -> bool {
        let mut ends = self.enter_key(progress, key, &mut selection.progress, begun);
        if !key.contains('.') {
            return ends;
        }
        let mut here = std::mem::take(&mut selection.flat.0);
        let mut next = std::mem::take(&mut selection.flat.1);
        here.clear();
        here.push(progress);
        for part in key.split('.') {
            next.clear();
            for progress in &here {
                ends |= self.enter_key(*progress, part, &mut next, 0);
            }
            std::mem::swap(&mut here, &mut next);
        }
        for progress in &here {
            selection.add(*progress, begun);
        }
        selection.flat = (here, next);
        ends
    }

    /// Follows a path into a member of that name; what comes of it is added to `out`, unless it is
    /// there from `begun` on.
    fn enter_key(
        &self,
        (path, step): Progress,
        key: &str,
        out: &mut Vec<Progress>,
        begun: usize,
    ) -> bool {
        let steps = &self.paths[usize::from(path)].steps[usize::from(step)..];
        match steps {
            [Step::Key(name), rest @ ..] => {
                let matches = name.matches(key);
                if matches {
                    add((path, step + 1), out, begun);
                }
                matches && rest.is_empty()
            }
            [Step::AnyDepth, rest @ ..] => {
                add((path, step), out, begun);
                rest.is_empty() || self.enter_key((path, step + 1), key, out, begun)
            }
            [Step::Index(_) | Step::Each, ..] | [] => false,
        }
    }

    /// Follows a path into an element of an array; returns whether it ends there. A path that says
    /// nothing of arrays passes through them.
    fn enter_element(
        &self,
        (path, step): Progress,
        index: usize,
        selection: &mut Selection,
        begun: usize,
    ) -> bool {
        let steps = &self.paths[usize::from(path)].steps[usize::from(step)..];
        let enters = match steps {
            [Step::Each, ..] => true,
            [Step::Index(wanted), ..] => *wanted == index,
            [Step::Key(_), ..] => {
                selection.add((path, step), begun);
                return false;
            }
            [Step::AnyDepth, ..] => {
                selection.add((path, step), begun);
                return steps.len() > 1
                    && !matches!(steps[1], Step::Key(_))
                    && self.enter_element((path, step + 1), index, selection, begun);
            }
            [] => false,
        };
        if enters {
            selection.add((path, step + 1), begun);
        }
        enters && steps.len() == 1
    }
}

impl Selection {
    fn clear(&mut self, nodes: usize) {
        self.named.clear();
        self.known.clear();
        self.progress.clear();
        self.seen.clear();
        self.seen.resize(nodes, 0);
    }

    /// Whether a node is named, or something that it is in.
    pub(super) fn names(&self, node: usize) -> bool {
        self.named[node]
    }

    fn push(&mut self, named: bool, from: usize, count: usize) {
        let place = |at: usize| u32::try_from(at).unwrap_or(u32::MAX);
        self.named.push(named);
        self.known.push((place(from), place(from + count)));
    }

    fn copy(&mut self, node: usize, begun: usize) {
        let (from, to) = self.known[node];
        for at in from..to {
            self.add(self.progress[at as usize], begun);
        }
    }

    fn add(&mut self, progress: Progress, begun: usize) {
        add(progress, &mut self.progress, begun);
    }

    /// Lets go of what an unusual event took.
    pub(super) fn rest(&mut self, entries: usize) {
        self.clear(0);
        self.named.shrink_to(entries);
        self.known.shrink_to(entries);
        self.progress.shrink_to(entries);
        self.seen.shrink_to(entries);
    }
}

fn add(progress: Progress, out: &mut Vec<Progress>, begun: usize) {
    if !out[begun..].contains(&progress) {
        out.push(progress);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::view::View;

    /// The values that a path names, as they are written.
    fn named(path: &str, body: &str) -> Vec<String> {
        let fields = Fields::parse(&[path.to_owned()], false).expect("valid");
        let mut view = View::default();
        view.begin(body.as_bytes(), body.contains('\\'));
        view.read(body.as_bytes());
        let (text, nodes) = (view.text(0, body.as_bytes()), view.nodes(0));
        let mut selection = Selection::default();
        fields.select(text, nodes, &mut selection);
        nodes
            .iter()
            .enumerate()
            .filter(|(number, node)| {
                selection.names(*number) && !node.is_container() && node.kind != Kind::Key
            })
            .map(|(_, node)| String::from_utf8_lossy(&text[node.start..node.end]).into_owned())
            .collect()
    }

    #[test]
    fn paths_name_what_they_say() {
        for (path, body, expected) in [
            ("a/b", r#"{"a":{"b":"1","c":"2"},"b":"3"}"#, &["1"][..]),
            ("a.b", r#"{"a.b":"1","a":{"b":"2"}}"#, &["1", "2"]),
            ("**/b", r#"{"a.b":"1","c":{"a.b":"2"}}"#, &["1", "2"]),
            ("a/**", r#"{"a.b":"1","c":"2"}"#, &["1"]),
            ("a", r#"{"a.b":{"c":"1"},"d":"2"}"#, &["1"]),
            ("**/a/b", r#"{"x.a.b":"1"}"#, &["1"]),
            ("a/b", r#"{"a":[{"b":"1"},[{"b":"2"}]]}"#, &["1", "2"]),
            ("a", r#"{"a":{"b":["1",{"c":2}]},"c":"3"}"#, &["1", "2"]),
            ("a[*]/b", r#"{"a":[{"b":"1"}],"b":"2"}"#, &["1"]),
            ("a[1]", r#"{"a":["0","1"]}"#, &["1"]),
            ("a/**", r#"{"a":{"b":{"c":"1"}},"d":"2"}"#, &["1"]),
            ("**/c", r#"{"a":{"b":{"c":"1"}},"c":"2"}"#, &["1", "2"]),
            (
                "a/**/c",
                r#"{"a":{"c":"1","b":{"c":"2"}},"c":"3"}"#,
                &["1", "2"],
            ),
            (
                "**/*secret*",
                r#"{"x":{"db_secret_v2":"1"},"port":2}"#,
                &["1"],
            ),
            ("u/m", r#"{"log":"{\"u\":{\"m\":\"1\"}}"}"#, &["1"]),
            ("log/u/m", r#"{"log":"{\"u\":{\"m\":\"1\"}}"}"#, &["1"]),
            ("log", r#"{"log":"{\"u\":1}","x":2}"#, &[r#"{"u":1}"#, "1"]),
            ("a", r#"{"\u0061":"1"}"#, &["1"]),
        ] {
            assert_eq!(named(path, body), expected, "{path} in {body}");
        }
    }
}
