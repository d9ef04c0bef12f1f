//! Vocabulary trimming: which tokens are kept, and the tokenizer section with only these.
//!
//! A token is made by merging pairs of smaller tokens, so whatever is kept is kept with all the
//! tokens that it is made from. Then a text that needs only kept tokens is merged step by step as
//! before: no merge of the whole vocabulary that took part is missing, and no new one is there.
//! Merges that never take part are left out.

use std::cmp::Reverse;
use std::collections::{BTreeSet, HashMap};
use std::prelude::rust_2024::*;
use std::str::FromStr;

use rayon::prelude::*;
use regex_syntax::hir::{Class, ClassUnicode, HirKind};

use super::section::{Added, CharacterTables, Merge, TokenizerSection};
use crate::import::ImportError;
use crate::text::section::ADDED_SPECIAL;
use crate::text::tables::AddedToken;
use crate::text::{EncodeOptions, Tokenizer};

/// Which tokens of a vocabulary are kept. With neither corpora nor scripts, `size` chooses the
/// tokens that are merged first, which are the frequent ones of the text that the tokenizer was
/// trained with.
///
/// Always kept, so that any text can still be read and written: the tokens of single bytes, single
/// characters that have no tokens of their bytes, tokens that the tokenizer puts around a text or
/// that end one, special tokens except unused and reserved ones, and added tokens that the chat
/// template names or that nothing else can write.
///
/// Example: [`Trimmed`](crate::import::Trimmed).
#[derive(Clone, Debug, Default)]
pub struct KeepTokens {
    /// Texts: the tokens that they are encoded to are kept.
    pub corpora: Vec<String>,
    /// Tokens are kept whose characters all belong to one of these scripts or to none in
    /// particular, such as digits and punctuation.
    pub scripts: Vec<Script>,
    /// The most tokens to keep. The frequent ones in the corpora come first.
    pub size: Option<u32>,
}

/// The characters of a writing system, by its Unicode name: `latin`, `greek`, `cyrillic`, `han`.
///
/// ```
/// use pocketlm::import::tokenizer::Script;
///
/// assert!("latin".parse::<Script>().is_ok());
/// assert!("klingon".parse::<Script>().is_err());
/// ```
#[derive(Clone, Debug)]
pub struct Script {
    characters: ClassUnicode,
}

impl FromStr for Script {
    type Err = ImportError;

    fn from_str(name: &str) -> Result<Self, ImportError> {
        let unknown = || {
            ImportError::new(format!("`{name}` is no script of Unicode"))
                .help("names are latin, greek, cyrillic, arabic, devanagari, han, hiragana")
        };
        if name.is_empty() || !name.chars().all(|c| c.is_ascii_alphabetic() || c == '_') {
            return Err(unknown());
        }
        let pattern = format!(r"[\p{{Script={name}}}\p{{Script=Common}}\p{{Script=Inherited}}]");
        let parsed = regex_syntax::parse(&pattern).map_err(|_| unknown())?;
        match parsed.into_kind() {
            HirKind::Class(Class::Unicode(characters)) => Ok(Script { characters }),
            _ => Err(unknown()),
        }
    }
}

impl Script {
    fn contains(&self, character: char) -> bool {
        let ranges = self.characters.ranges();
        let next = ranges.partition_point(|range| range.start() <= character);
        next.checked_sub(1)
            .is_some_and(|at| character <= ranges[at].end())
    }
}

/// A tokenizer section with fewer tokens.
///
/// Example: [`Trimmed`](crate::import::Trimmed).
#[derive(Clone, Debug)]
pub struct TrimmedTokenizer {
    /// The section.
    pub section: Vec<u8>,
    /// The ids that its tokens had before, ascending: token `i` was token `kept[i]`.
    pub kept: Vec<u32>,
}

/// The tokenizer of `section` with only the tokens that `keep` asks for. Added tokens that occur in
/// `chat_template` are kept. A text that is encoded to kept tokens alone is encoded to the same
/// tokens afterwards, under their new ids.
///
/// # Errors
/// `section` is no valid tokenizer, a corpus is empty, or the size is too small.
pub fn trim(
    section: &[u8],
    chat_template: &str,
    keep: &KeepTokens,
) -> Result<TrimmedTokenizer, ImportError> {
    let tokenizer =
        Tokenizer::open(section).map_err(|error| ImportError::new(error.to_string()))?;
    let kept = kept_tokens(&tokenizer, chat_template, keep)?;
    let section = with_tokens(section, &tokenizer, &kept)?;
    Ok(TrimmedTokenizer { section, kept })
}

/// The ids that are kept, ascending.
fn kept_tokens(
    tokenizer: &Tokenizer<'_>,
    template: &str,
    keep: &KeepTokens,
) -> Result<Vec<u32>, ImportError> {
    let counts = counts(tokenizer, &keep.corpora)?;
    let mut kept = BTreeSet::new();
    for id in always_kept(tokenizer, template, &counts) {
        kept.insert(id);
        kept.extend(made_from(tokenizer, id));
    }
    let least = kept.len();
    let size = keep.size.map_or(usize::MAX, |size| size as usize);
    if size < least {
        let reason = format!("{size} tokens are too few: {least} are needed to write any text");
        return Err(ImportError::new(reason).help(format!("ask for {least} or more")));
    }
    let candidates = candidates(tokenizer, keep, &counts);
    let with_parts = candidates.par_iter().map(|id| {
        let mut tokens = made_from(tokenizer, *id);
        tokens.insert(*id);
        tokens
    });
    for mut tokens in with_parts.collect::<Vec<_>>() {
        tokens.retain(|id| !kept.contains(id));
        if kept.len() + tokens.len() <= size {
            kept.extend(tokens);
        }
    }
    Ok(kept.into_iter().collect())
}

/// How often each token occurs in the corpora.
fn counts(
    tokenizer: &Tokenizer<'_>,
    corpora: &[String],
) -> Result<HashMap<u32, usize>, ImportError> {
    let options = EncodeOptions {
        add_special_tokens: false,
        parse_special: true,
    };
    let mut counts = HashMap::new();
    for corpus in corpora {
        if corpus.trim().is_empty() {
            return Err(ImportError::new("the corpus holds no text"));
        }
        let ids = tokenizer
            .encode_to_vec(corpus, options)
            .map_err(|error| ImportError::new(error.to_string()))?;
        for id in ids {
            *counts.entry(id).or_default() += 1;
        }
    }
    Ok(counts)
}

/// The tokens without which not every text could be read and written.
fn always_kept(
    tokenizer: &Tokenizer<'_>,
    template: &str,
    counts: &HashMap<u32, usize>,
) -> Vec<u32> {
    let bytes = (0..=255).filter_map(|byte| tokenizer.byte_token(byte));
    let around = (0..tokenizer.template.len()).map(|index| tokenizer.template.at(index));
    let mut ids: Vec<u32> = bytes.chain(around).collect();
    ids.extend(tokenizer.bos());
    ids.extend(tokenizer.unknown);
    // A character without a token is written as bytes, if there are tokens of these.
    let can_be_bytes = |character: &[u8]| {
        let mut bytes = character.iter();
        bytes.all(|byte| tokenizer.byte_token(*byte).is_some())
    };
    let has_symbols = |character: char| {
        let mut utf8 = [0; 4];
        let character = character.encode_utf8(&mut utf8).as_bytes();
        tokenizer.model_token(character).is_some() || can_be_bytes(character)
    };
    for token in added(tokenizer) {
        let content = String::from_utf8_lossy(token.content);
        let is_special = token.flags & ADDED_SPECIAL != 0 && !is_spare(&token);
        let is_used = counts.contains_key(&token.id) || template.contains(&*content);
        if is_special || is_used || !content.chars().all(has_symbols) {
            ids.push(token.id);
        }
    }
    ids.extend((0..tokenizer.vocab_size()).filter(|id| {
        let piece = tokenizer.piece(*id).unwrap_or_default();
        let text = str::from_utf8(piece).unwrap_or_default();
        text.chars().count() == 1 && !can_be_bytes(piece)
    }));
    ids
}

/// The other tokens that `keep` asks for, the most wanted first.
fn candidates(
    tokenizer: &Tokenizer<'_>,
    keep: &KeepTokens,
    counts: &HashMap<u32, usize>,
) -> Vec<u32> {
    let mut ids: Vec<u32> = counts.keys().copied().collect();
    // Frequent tokens first. Of equals the one with the lower id, which is merged earlier.
    ids.sort_by_key(|id| (Reverse(counts[id]), *id));
    let of_scripts = |id: &u32| {
        let text = tokenizer.piece(*id).map(str::from_utf8);
        let Some(Ok(text)) = text else {
            return false; // a part of a character
        };
        let belongs = |c: char| keep.scripts.iter().any(|script| script.contains(c));
        text.chars().all(belongs)
    };
    let takes_any = keep.corpora.is_empty() && keep.scripts.is_empty();
    if takes_any || !keep.scripts.is_empty() {
        let added = added(tokenizer).filter(|token| !is_spare(token));
        let all = encodable(tokenizer).chain(added.map(|token| token.id));
        let mut further: Vec<u32> = all.filter(|id| takes_any || of_scripts(id)).collect();
        let ranks = ranks(tokenizer);
        further.sort_by_key(|id| (ranks.get(id).copied().unwrap_or(0), *id));
        ids.extend(further);
    }
    ids
}

/// The added tokens.
fn added<'m>(tokenizer: &Tokenizer<'m>) -> impl Iterator<Item = AddedToken<'m>> {
    let tables = tokenizer.added.into_iter();
    tables.flat_map(|table| (0..table.len()).filter_map(move |index| table.get(index)))
}

/// Whether a token is there for those who train the model further, and so far means nothing.
fn is_spare(token: &AddedToken<'_>) -> bool {
    let content = String::from_utf8_lossy(token.content);
    content.contains("unused") || content.contains("reserved")
}

/// The tokens of the model's vocabulary that text can become.
fn encodable(tokenizer: &Tokenizer<'_>) -> impl Iterator<Item = u32> {
    (0..tokenizer.index.len()).map(|at| tokenizer.index.at(at))
}

/// The rank of the first merge that makes a token. Tokens that no merge makes have none.
fn ranks(tokenizer: &Tokenizer<'_>) -> HashMap<u32, u32> {
    let mut ranks = HashMap::new();
    for merge in merges(tokenizer) {
        let rank = ranks.entry(merge.result).or_insert(merge.rank);
        *rank = merge.rank.min(*rank);
    }
    ranks
}

/// Every merge of the tokenizer.
fn merges(tokenizer: &Tokenizer<'_>) -> impl Iterator<Item = Merge> {
    let Tokenizer {
        merge_starts,
        merges,
        ..
    } = *tokenizer;
    (0..tokenizer.vocab_size()).flat_map(move |left| {
        let start = merge_starts.at(left as usize) as usize;
        let end = merge_starts.at(left as usize + 1) as usize;
        (start..end).map(move |at| Merge {
            left,
            right: merges.at(at * 3),
            rank: merges.at(at * 3 + 1),
            result: merges.at(at * 3 + 2),
        })
    })
}

/// The tokens from which encoding makes token `id`, step by step.
fn made_from(tokenizer: &Tokenizer<'_>, id: u32) -> BTreeSet<u32> {
    let piece = tokenizer.piece(id).unwrap_or_default();
    if tokenizer.model_token(piece) != Some(id) {
        return BTreeSet::new(); // not made by merging: an added token, or the token of a byte
    }
    let symbols = symbols(tokenizer, piece);
    let steps = steps(tokenizer, symbols.clone());
    let results = steps.iter().map(|merge| merge.result);
    symbols.into_iter().chain(results).collect()
}

/// The merges that encoding does to `symbols`, in order.
fn steps(tokenizer: &Tokenizer<'_>, mut symbols: Vec<u32>) -> Vec<Merge> {
    let mut steps = vec![];
    loop {
        let pairs = symbols.windows(2).enumerate();
        let merges = pairs.filter_map(|(at, pair)| {
            let merge = tokenizer.merge(pair[0], pair[1])?;
            Some((merge.rank, at, merge.result))
        });
        let Some((rank, at, result)) = merges.min() else {
            return steps;
        };
        steps.push(Merge {
            left: symbols[at],
            right: symbols[at + 1],
            rank,
            result,
        });
        symbols.splice(at..at + 2, [result]);
    }
}

/// The merges that can take part in encoding, of those that make `kept` tokens. A SentencePiece
/// vocabulary lists every way to put a token together from two others, and half of them never
/// happen.
///
/// Two neighbours become a token only if nothing around them has merged with a part of them. Up to
/// then the characters under them merge as if they were alone. So the last merge of encoding the
/// token's own piece is the only one that makes it.
fn used_merges(tokenizer: &Tokenizer<'_>, kept: &[u32]) -> Vec<Merge> {
    if !merges(tokenizer).all(|merge| joins_pieces(tokenizer, &merge)) {
        return merges(tokenizer).collect();
    }
    let last = |id: &u32| {
        let piece = tokenizer.piece(*id).unwrap_or_default();
        let last = steps(tokenizer, symbols(tokenizer, piece)).pop();
        last.filter(|merge| merge.result == *id)
    };
    kept.par_iter().filter_map(last).collect()
}

/// Whether a merge does what that argument needs: what the result decodes to is the text of both
/// parts, and encoding this text starts from the same symbols wherever it occurs.
fn joins_pieces(tokenizer: &Tokenizer<'_>, merge: &Merge) -> bool {
    let Merge {
        left,
        right,
        result,
        ..
    } = *merge;
    let [start, end, piece] = [left, right, result].map(|id| tokenizer.piece(id));
    let [start, end, piece] = [start, end, piece].map(Option::unwrap_or_default);
    let is_of_characters = tokenizer.is_byte_level() || str::from_utf8(piece).is_ok();
    let unknown = tokenizer.unknown;
    is_of_characters
        && [left, right, result].iter().all(|id| unknown != Some(*id))
        && piece.strip_prefix(start) == Some(end)
}

/// The tokens that merging starts from: characters, or bytes.
fn symbols(tokenizer: &Tokenizer<'_>, piece: &[u8]) -> Vec<u32> {
    let bytes = |bytes: &[u8]| -> Vec<u32> {
        let tokens = bytes.iter().map(|byte| tokenizer.byte_token(*byte));
        tokens.flatten().collect()
    };
    match str::from_utf8(piece) {
        Ok(text) if !tokenizer.is_byte_level() => {
            let character = |c: char| {
                let mut utf8 = [0; 4];
                let character = c.encode_utf8(&mut utf8).as_bytes();
                let token = tokenizer.model_token(character);
                token.map_or_else(|| bytes(character), |id| vec![id])
            };
            text.chars().flat_map(character).collect()
        }
        _ => bytes(piece),
    }
}

/// The tokenizer section with only the tokens `kept`, which ascend: the first of them is token 0.
fn with_tokens(
    section: &[u8],
    tokenizer: &Tokenizer<'_>,
    kept: &[u32],
) -> Result<Vec<u8>, ImportError> {
    let new_ids: HashMap<u32, u32> = kept.iter().copied().zip(0..).collect();
    let new_id = |id: u32| new_ids.get(&id).copied();

    let mut trimmed = TokenizerSection::new();
    trimmed.flags = tokenizer.flags;
    trimmed.prefix = tokenizer.prefix;
    let piece = |id: &u32| tokenizer.piece(*id).unwrap_or_default().to_vec();
    trimmed.pieces = kept.iter().map(piece).collect();
    trimmed.encodable = encodable(tokenizer).filter_map(new_id).collect();
    trimmed.byte_ids = (0..=255)
        .filter_map(|byte| Some((byte, new_id(tokenizer.byte_token(byte)?)?)))
        .collect();
    trimmed.merges = used_merges(tokenizer, kept)
        .into_iter()
        .filter_map(|merge| kept_merge(merge, &new_ids))
        .collect();
    trimmed.added = tokenizer.added.map(|table| {
        let tokens = (0..table.len()).filter_map(|index| table.get(index));
        tokens
            .filter_map(|token| kept_added(token, &new_ids))
            .collect()
    });
    let special = kept.iter().filter(|id| tokenizer.is_special(**id));
    trimmed.special = special.filter_map(|id| new_id(*id)).collect();
    let template = |range: std::ops::Range<usize>| {
        let ids = range.map(|index| tokenizer.template.at(index));
        ids.filter_map(new_id).collect()
    };
    trimmed.before = template(0..tokenizer.after_start);
    trimmed.after = template(tokenizer.after_start..tokenizer.eos_start);
    trimmed.eos = template(tokenizer.eos_start..tokenizer.template.len());
    trimmed.bos = tokenizer.bos().and_then(new_id);
    trimmed.unknown = tokenizer.unknown.and_then(new_id);
    trimmed.write_with(&CharacterTables::of(section))
}

/// A merge with the new ids, if all its tokens are kept.
fn kept_merge(merge: Merge, new_ids: &HashMap<u32, u32>) -> Option<Merge> {
    Some(Merge {
        left: *new_ids.get(&merge.left)?,
        right: *new_ids.get(&merge.right)?,
        rank: merge.rank,
        result: *new_ids.get(&merge.result)?,
    })
}

/// An added token with its new id, if it is kept.
fn kept_added(token: AddedToken<'_>, new_ids: &HashMap<u32, u32>) -> Option<Added> {
    Some(Added {
        content: token.content.to_vec(),
        flags: token.flags,
        id: *new_ids.get(&token.id)?,
    })
}
