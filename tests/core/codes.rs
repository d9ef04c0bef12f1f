//! The numbers of errors, which programs in other languages and logs go by: none may ever change

//! its meaning.

use pocketlm::Error;
use pocketlm::model::{ConfigField, DType, Section, TensorId, TensorKind};

const ID: TensorId = TensorId {
    layer: 0,
    kind: TensorKind::Query,
};

/// To be added to only. The number of an error that is gone is not given to another.
const CODES: [(u16, Error); 41] = [
    (100, Error::NotAnImage),
    (101, Error::Version(2)),
    (
        102,
        Error::Truncated {
            expected: 2,
            found: 1,
        },
    ),
    (103, Error::Unaligned(64)),
    (104, Error::Layout(Section::Rope)),
    (105, Error::Checksum(Section::Rope)),
    (106, Error::Config(ConfigField::Rope)),
    (107, Error::Tensor(ID)),
    (108, Error::NotFinite(ID)),
    (109, Error::Disabled(DType::Q8)),
    (110, Error::ChatTemplate),
    (111, Error::Unverified),
    (200, Error::Limits),
    (201, Error::ForeignPlan),
    (
        202,
        Error::ArenaTooSmall {
            needed: 2,
            found: 1,
        },
    ),
    (
        203,
        Error::WeightBufferTooSmall {
            needed: 2,
            found: 1,
        },
    ),
    (204, Error::NotMapped),
    (205, Error::NoTokens),
    (206, Error::ContextFull { room: 1 }),
    (207, Error::Position(1)),
    (208, Error::RewindTooFar { possible: 1 }),
    (209, Error::Busy),
    (300, Error::Storage),
    (
        301,
        Error::StorageTooSmall {
            needed: 2,
            found: 1,
        },
    ),
    (302, Error::NotASnapshot),
    (303, Error::SnapshotVersion(2)),
    (304, Error::ForeignSnapshot),
    (305, Error::SnapshotKv(DType::Q8)),
    (306, Error::SnapshotDamaged),
    (
        400,
        Error::TokenizerTruncated {
            needed: 2,
            found: 1,
        },
    ),
    (401, Error::TokenizerInvalid { offset: 1 }),
    (402, Error::ByteLevelDisabled),
    (403, Error::NfcDisabled),
    (
        404,
        Error::ScratchTooSmall {
            needed: 2,
            found: 1,
        },
    ),
    (
        405,
        Error::OutputTooSmall {
            needed: 2,
            found: 1,
        },
    ),
    (406, Error::NoCandidate),
    (
        407,
        Error::TokenOutOfRange {
            token: 2,
            vocab_size: 1,
        },
    ),
    (408, Error::NoTokenizer),
    (409, Error::NotAGrammar),
    (410, Error::GrammarVersion(2)),
    (411, Error::GrammarDamaged),
];

#[test]
fn the_number_of_an_error_never_changes() {
    for (code, error) in CODES {
        assert_eq!(error.code(), code, "{error}");
    }
}

#[test]
fn no_two_errors_have_the_same_number() {
    let mut codes: Vec<u16> = CODES.iter().map(|(code, _)| *code).collect();
    codes.sort_unstable();
    codes.dedup();
    assert_eq!(codes.len(), CODES.len());
}
