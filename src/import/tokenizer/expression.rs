//! Parses regular expressions as Oniguruma does, the library that `tokenizers` uses. Supported is
//! what an automaton with one character of look-ahead can match; errors name other constructs.

use std::prelude::rust_2024::*;

use regex_syntax::hir::{Class, ClassUnicode, ClassUnicodeRange, HirKind};

/// Most levels of groups and sets within each other.
const MAX_DEPTH: usize = 50;
/// The greatest count of a repeat.
const MAX_COUNT: u32 = 2_000;

/// A part of an expression.
#[derive(Clone)]
pub(super) enum Node {
    /// One character of a set.
    Set(ClassUnicode),
    /// Nothing, if the next character is in a set, or the text ends and that is wanted.
    Ahead(ClassUnicode, bool),
    Sequence(Vec<Node>),
    Alternatives(Vec<Node>),
    Repeat(Box<Node>, u32, Option<u32>, Greed),
}

#[derive(Clone, Copy, PartialEq)]
pub(super) enum Greed {
    Greedy,
    Lazy,
    Possessive,
}

/// What an expression is made of.
pub(super) fn parse(expression: &str) -> Result<Node, String> {
    let mut parser = Parser {
        rest: expression,
        any_case: false,
        depth: 0,
    };
    let node = parser.alternatives()?;
    if !parser.rest.is_empty() {
        return Err("a `)` without a `(`".into());
    }
    if can_be_empty(&node) {
        return Err("it matches the empty text, which is not supported".into());
    }
    Ok(node)
}

fn can_be_empty(node: &Node) -> bool {
    match node {
        Node::Set(_) => false,
        Node::Ahead(..) => true,
        Node::Sequence(nodes) => nodes.iter().all(can_be_empty),
        Node::Alternatives(nodes) => nodes.iter().any(can_be_empty),
        Node::Repeat(node, least, ..) => *least == 0 || can_be_empty(node),
    }
}

/// Parses an expression from left to right.
struct Parser<'e> {
    rest: &'e str,
    any_case: bool,
    depth: usize,
}

impl<'e> Parser<'e> {
    fn peek(&self) -> Option<char> {
        self.rest.chars().next()
    }

    fn next(&mut self) -> Option<char> {
        let next = self.peek()?;
        self.rest = &self.rest[next.len_utf8()..];
        Some(next)
    }

    /// Takes `text` if it comes next.
    fn eat(&mut self, text: &str) -> bool {
        let rest = self.rest.strip_prefix(text);
        self.rest = rest.unwrap_or(self.rest);
        rest.is_some()
    }

    fn descend(&mut self) -> Result<(), String> {
        self.depth += 1;
        if self.depth > MAX_DEPTH {
            return Err(format!("more than {MAX_DEPTH} groups within each other"));
        }
        Ok(())
    }

    fn alternatives(&mut self) -> Result<Node, String> {
        self.descend()?;
        let mut alternatives = vec![self.sequence()?];
        while self.eat("|") {
            alternatives.push(self.sequence()?);
        }
        self.depth -= 1;
        Ok(match alternatives.pop() {
            Some(only) if alternatives.is_empty() => only,
            last => {
                alternatives.extend(last);
                Node::Alternatives(alternatives)
            }
        })
    }

    fn sequence(&mut self) -> Result<Node, String> {
        let mut nodes = vec![];
        let mut before = None;
        while !matches!(self.peek(), None | Some('|' | ')')) {
            let letter = self.peek().filter(|letter| letter.is_ascii_alphabetic());
            let node = self.atom()?;
            self.refuse_folding_of_several(before, letter)?;
            before = letter;
            let (node, repeated) = self.repeats(node)?;
            before = before.filter(|_| !repeated);
            match node {
                Node::Sequence(parts) => nodes.extend(parts),
                node => nodes.push(node),
            }
        }
        Ok(match nodes.pop() {
            Some(only) if nodes.is_empty() => only,
            last => {
                nodes.extend(last);
                Node::Sequence(nodes)
            }
        })
    }

    /// When case is ignored, Oniguruma matches `ß` with `ss` and `ﬁ` with `fi`.
    fn refuse_folding_of_several(
        &self,
        before: Option<char>,
        letter: Option<char>,
    ) -> Result<(), String> {
        let pair: String = [before, letter]
            .into_iter()
            .flatten()
            .map(|letter| letter.to_ascii_lowercase())
            .collect();
        if self.any_case && matches!(pair.as_str(), "ss" | "ff" | "fi" | "fl" | "st") {
            return Err(format!(
                "`(?i:…)` with the letters `{pair}` is not supported"
            ));
        }
        Ok(())
    }

    /// An atom with what comes behind it: `?`, `*`, `+`, `{n,m}`.
    fn repeats(&mut self, node: Node) -> Result<(Node, bool), String> {
        let mut node = node;
        let mut repeated = false;
        loop {
            let (least, most, counted) = match self.peek() {
                Some('?') => (0, Some(1), false),
                Some('*') => (0, None, false),
                Some('+') => (1, None, false),
                Some('{') => match self.count()? {
                    Some((least, most)) => (least, most, true),
                    None => return Ok((node, repeated)),
                },
                _ => return Ok((node, repeated)),
            };
            if !counted {
                self.next();
            }
            if matches!(node, Node::Ahead(..)) {
                return Err("a repeated look-ahead is not supported".into());
            }
            // Matchers disagree about when such a repeat ends.
            if most != Some(1) && can_be_empty(&node) {
                return Err("a repeat of what can be empty is not supported".into());
            }
            // Behind a count, `+` repeats the whole once more.
            let greed = if self.eat("?") {
                Greed::Lazy
            } else if !counted && self.eat("+") {
                Greed::Possessive
            } else {
                Greed::Greedy
            };
            if counted && greed == Greed::Lazy && Some(least) == most {
                return Err("a `?` behind a count `{n}` is not supported".into());
            }
            if greed == Greed::Possessive && !matches!(node, Node::Set(_)) {
                return Err(
                    "a possessive repeat of more than one set of characters is not supported"
                        .into(),
                );
            }
            node = Node::Repeat(Box::new(node), least, most, greed);
            repeated = true;
        }
    }

    /// `{n}`, `{n,}`, `{,m}`, `{n,m}`; anything else is an ordinary brace.
    fn count(&mut self) -> Result<Option<(u32, Option<u32>)>, String> {
        let Some((inside, rest)) = self.rest[1..].split_once('}') else {
            return Ok(None);
        };
        let (least, most) = inside.split_once(',').unwrap_or((inside, inside));
        let is_number = |text: &str| text.bytes().all(|byte| byte.is_ascii_digit());
        if (least.is_empty() && most.is_empty()) || !is_number(least) || !is_number(most) {
            return Ok(None);
        }
        let number = |text: &str| {
            let number = text.parse().ok().filter(|number| *number <= MAX_COUNT);
            number.ok_or_else(|| format!("the count `{{{inside}}}` is too large"))
        };
        let least = if least.is_empty() { 0 } else { number(least)? };
        let most = match most {
            "" => None,
            most => Some(number(most)?),
        };
        if most.is_some_and(|most| most < least) {
            return Err(format!(
                "the count `{{{inside}}}` has its larger number first"
            ));
        }
        self.rest = rest;
        Ok(Some((least, most)))
    }

    fn atom(&mut self) -> Result<Node, String> {
        let start = self.rest;
        let node = match self.next().unwrap_or_default() {
            '(' => return self.group(),
            '[' => Node::Set(self.set(true)?),
            '.' => Node::Set(negated(set_of('\n', '\n'))),
            '$' => Node::Ahead(set_of('\n', '\n'), true),
            '^' => return Err("`^` is not supported".into()),
            '\\' => match self.peek() {
                Some('z') => {
                    self.next();
                    Node::Ahead(ClassUnicode::empty(), true)
                }
                // Outside of brackets, six digits of Latin-1 (such as `²` and `½`) are word
                // characters.
                Some(word @ ('w' | 'W')) => {
                    self.next();
                    let mut set = named(WORD)?;
                    set.union(&named("[²³¹¼½¾]")?);
                    Node::Set(if word == 'W' { negated(set) } else { set })
                }
                _ => Node::Set(self.escape(start)?),
            },
            '*' | '+' | '?' => return Err("a repeat of nothing".into()),
            character => Node::Set(set_of(character, character)),
        };
        Ok(match node {
            // Properties are not folded outside of brackets.
            Node::Set(set) if single(&set).is_some() => Node::Set(self.folded(set)?),
            node => node,
        })
    }

    /// What is in parentheses; the first is taken.
    fn group(&mut self) -> Result<Node, String> {
        let outside = self.any_case;
        let mut ahead = None;
        if self.eat("?i:") {
            self.any_case = true;
        } else if self.eat("?-i:") {
            self.any_case = false;
        } else if self.eat("?=") {
            ahead = Some(true);
        } else if self.eat("?!") {
            ahead = Some(false);
        } else if self.rest.starts_with('?') && !self.eat("?:") {
            let known = [
                ("?<=", "look-behind `(?<=`"),
                ("?<!", "look-behind `(?<!`"),
                ("?>", "the atomic group `(?>`"),
                ("?~", "the absent operator `(?~`"),
                ("?#", "the comment `(?#`"),
                ("?(", "the condition `(?(`"),
            ];
            let name = known
                .iter()
                .find(|(start, _)| self.rest.starts_with(start))
                .map_or_else(
                    || {
                        let end = self.rest.find([':', ')', '>']).unwrap_or(self.rest.len());
                        format!("the group `({}`", &self.rest[..end])
                    },
                    |(_, name)| (*name).into(),
                );
            return Err(format!("{name} is not supported"));
        }
        let node = self.alternatives()?;
        if !self.eat(")") {
            return Err("a `(` without a `)`".into());
        }
        self.any_case = outside;
        match (ahead, node) {
            (None, node) => Ok(node),
            (Some(wanted), node) => {
                let (set, end) = one_ahead(&node)
                    .ok_or("look-ahead of more than one character is not supported")?;
                Ok(if wanted {
                    Node::Ahead(set, end)
                } else {
                    Node::Ahead(negated(set), !end)
                })
            }
        }
    }

    /// A set in brackets, of which the first is taken; whether it is in no other.
    fn set(&mut self, outermost: bool) -> Result<ClassUnicode, String> {
        self.descend()?;
        let negative = self.eat("^");
        // What is before `&&`, if there is one.
        let mut both: Option<ClassUnicode> = None;
        let mut set = ClassUnicode::empty();
        let mut first = true;
        loop {
            let start = self.rest;
            let character = self.next().ok_or("a `[` without a `]`")?;
            match character {
                ']' if !first => break,
                '[' if self.rest.starts_with(':') => set.union(&self.posix()?),
                '[' => set.union(&self.set(false)?),
                '&' if self.eat("&") => {
                    if let Some(before) = both.take() {
                        set.intersect(&before);
                    }
                    both = Some(std::mem::replace(&mut set, ClassUnicode::empty()));
                }
                _ => set.union(&self.set_range(start, character)?),
            }
            first = false;
        }
        if let Some(before) = both {
            set.intersect(&before);
        }
        self.depth -= 1;
        let set = if outermost { self.folded(set)? } else { set };
        Ok(if negative { negated(set) } else { set })
    }

    /// An item in a set, or a range of characters that begins with it. The item's first character
    /// is taken, `start` is where it was.
    fn set_range(&mut self, start: &'e str, character: char) -> Result<ClassUnicode, String> {
        let item = self.set_item(start, character)?;
        let is_range = self.rest.starts_with('-') && !self.rest.starts_with("-]");
        let Some(low) = single(&item).filter(|_| is_range) else {
            return Ok(item);
        };
        self.next();
        let start = self.rest;
        let character = self.next().ok_or("a `[` without a `]`")?;
        if character == '[' {
            return Err("a range that ends with a set is not supported".into());
        }
        let high = single(&self.set_item(start, character)?)
            .ok_or("a range that ends with a set is not supported")?;
        if low > high {
            return Err(format!("the range `{low}-{high}` ends before it starts"));
        }
        Ok(set_of(low, high))
    }

    fn set_item(&mut self, start: &'e str, character: char) -> Result<ClassUnicode, String> {
        match character {
            '\\' => self.escape(start),
            _ => Ok(set_of(character, character)),
        }
    }

    /// `[:name:]`, of which the bracket is taken.
    fn posix(&mut self) -> Result<ClassUnicode, String> {
        let (name, rest) = self.rest[1..]
            .split_once(":]")
            .ok_or("a `[:` without a `:]`")?;
        let (name, negative) = match name.strip_prefix('^') {
            Some(name) => (name, true),
            None => (name, false),
        };
        let expression = match name {
            "alpha" => r"\p{Alphabetic}",
            "digit" => r"\p{Nd}",
            "alnum" => r"[\p{Alphabetic}\p{Nd}]",
            "upper" => r"\p{Uppercase}",
            "lower" => r"\p{Lowercase}",
            "space" => r"\s",
            "punct" => r"[\p{P}\p{S}]",
            "word" => WORD,
            "cntrl" => r"\p{Cc}",
            _ => return Err(format!("the set `[:{name}:]` is not supported")),
        };
        self.rest = rest;
        let set = named(expression)?;
        Ok(if negative { negated(set) } else { set })
    }

    /// What an escape stands for; the backslash is taken, `start` is where it was.
    fn escape(&mut self, start: &'e str) -> Result<ClassUnicode, String> {
        let character = self.next().ok_or("a `\\` at the end")?;
        let one = |character: char| Ok(set_of(character, character));
        match character {
            'n' => one('\n'),
            'r' => one('\r'),
            't' => one('\t'),
            'f' => one('\x0C'),
            'v' => one('\x0B'),
            'a' => one('\x07'),
            'e' => one('\x1B'),
            's' => named(r"\s"),
            'S' => named(r"\S"),
            'd' => named(r"\p{Nd}"),
            'D' => named(r"\P{Nd}"),
            'w' => named(WORD),
            'W' => named(WORD).map(negated),
            'h' => named("[0-9A-Fa-f]"),
            'H' => named("[^0-9A-Fa-f]"),
            'p' => self.property(),
            'P' => self.property().map(negated),
            'x' | 'u' => self.code(start, character).and_then(one),
            _ if character.is_ascii_alphanumeric() => {
                let what = match character {
                    '1'..='9' | 'k' | 'g' => "back-reference",
                    'b' | 'B' => "word boundary",
                    'A' | 'G' | 'Z' => "anchor",
                    _ => "escape",
                };
                Err(format!("the {what} `\\{character}` is not supported"))
            }
            _ => one(character),
        }
    }

    /// The characters with a property, whose name in braces is next.
    fn property(&mut self) -> Result<ClassUnicode, String> {
        let inside = self
            .rest
            .strip_prefix('{')
            .and_then(|rest| rest.split_once('}'));
        let (name, rest) = inside.ok_or(r"a `\p` without a name in braces is not supported")?;
        self.rest = rest;
        let (name, inverted) = match name.strip_prefix('^') {
            Some(name) => (name, true),
            None => (name, false),
        };
        let is_name = |character: char| {
            character.is_ascii_alphanumeric() || matches!(character, '_' | ' ' | '-')
        };
        let set = match name.strip_prefix("Age_") {
            Some(version) if version.chars().all(is_name) => {
                named(&format!(r"\p{{age:{}}}", version.replace('_', "."))).ok()
            }
            // This one is another set there.
            None if name.chars().all(is_name) && !name.eq_ignore_ascii_case("punct") => {
                named(&format!(r"\p{{{name}}}")).ok()
            }
            _ => None,
        };
        let set = set.ok_or_else(|| format!(r"the property `\p{{{name}}}` is not known"))?;
        Ok(if inverted { negated(set) } else { set })
    }

    /// The character whose code in hexadecimal is next: after `\x` two digits, or up to eight in
    /// braces, after `\u` four. `start` is where the escape was.
    fn code(&mut self, start: &'e str, escape: char) -> Result<char, String> {
        let braced = escape == 'x' && self.eat("{");
        let most = match (escape, braced) {
            (_, true) => 8,
            ('x', _) => 2,
            _ => 4,
        };
        let is_hex = |byte: &u8| byte.is_ascii_hexdigit();
        let len = self.rest.bytes().take(most).take_while(is_hex).count();
        let (code, rest) = self.rest.split_at(len);
        self.rest = rest;
        let code = u32::from_str_radix(code, 16)
            .ok()
            .and_then(char::from_u32)
            .filter(|code| braced || escape == 'u' || code.is_ascii())
            .filter(|_| escape != 'u' || len == 4)
            .filter(|_| !braced || self.eat("}"));
        code.ok_or_else(|| {
            let taken = &start[..start.len() - self.rest.len()];
            format!("`{taken}` is not a character")
        })
    }

    fn folded(&self, set: ClassUnicode) -> Result<ClassUnicode, String> {
        let mut set = set;
        if self.any_case {
            set.try_case_fold_simple()
                .map_err(|error| error.to_string())?;
        }
        Ok(set)
    }
}

/// Oniguruma's `\w`.
const WORD: &str = r"[\p{Alphabetic}\p{M}\p{Nd}\p{Pc}]";

fn set_of(first: char, last: char) -> ClassUnicode {
    ClassUnicode::new([ClassUnicodeRange::new(first, last)])
}

pub(super) fn negated(set: ClassUnicode) -> ClassUnicode {
    let mut set = set;
    set.negate();
    set
}

/// A set that `regex-syntax` has a name for.
fn named(expression: &str) -> Result<ClassUnicode, String> {
    let parsed = regex_syntax::parse(expression).map_err(|error| error.to_string())?;
    match parsed.into_kind() {
        HirKind::Class(Class::Unicode(set)) => Ok(set),
        // A set of one character is a literal to it.
        HirKind::Literal(literal) => {
            let text = String::from_utf8_lossy(&literal.0).into_owned();
            let character = text.chars().next().ok_or("an empty set")?;
            Ok(set_of(character, character))
        }
        _ => Err("an empty set".into()),
    }
}

/// The only character of a set.
fn single(set: &ClassUnicode) -> Option<char> {
    match set.ranges() {
        [range] if range.start() == range.end() => Some(range.start()),
        _ => None,
    }
}

/// What a look-ahead of one character allows: a set, and whether the end of the text.
fn one_ahead(node: &Node) -> Option<(ClassUnicode, bool)> {
    match node {
        Node::Set(set) => Some((set.clone(), false)),
        Node::Ahead(set, end) => Some((set.clone(), *end)),
        Node::Alternatives(nodes) => {
            let mut all = (ClassUnicode::empty(), false);
            for node in nodes {
                let (set, end) = one_ahead(node)?;
                all.0.union(&set);
                all.1 |= end;
            }
            Some(all)
        }
        // For one character of look-ahead, one repeat is the same as many.
        Node::Repeat(node, 1, _, _) => one_ahead(node),
        _ => None,
    }
}
