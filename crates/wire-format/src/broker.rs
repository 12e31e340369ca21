//! What a PostgreSQL backend asks of its instance process, over a unix socket.
//!
//! Fixed-size little-endian messages: a backend sends one request at a time, the answer repeats its number, and a
//! connection whose answer was not read to the end is closed, never reused.
//!
//! | request, 48 bytes | | answer, 16 bytes, then `payload_bytes` | |
//! |---|---|---|---|
//! | 0..4 | `number` | 0..4 | `number` |
//! | 4 | kind | 4 | status |
//! | 5 | fork | 5..8 | zero |
//! | 6..8 | `count`: pages wanted soon, from `block` on | 8..12 | `value` |
//! | 8..20 | tablespace, database, relation | 12..16 | `payload_bytes` |
//! | 20..24 | block | | |
//! | 24..32 | needed LSN | | |
//! | 32..40 | `wanted` tablespace, database; zero: any | | |
//! | 40..48 | zero | | |
//!
//! The payload that answers [`BrokerQuestion::ListForks`] is an array of [`ForkSize`]: tablespace, database, relation and
//! fork, each 4 bytes, then the 4 bytes of its blocks.

use units::{ForkKey, Lsn, PAGE_BYTES, PageKey, RelationKey};

/// Version of these messages, sent as the first four bytes by both sides, followed by the backend's pid as `u32` (the
/// instance process answers with its own). The library and the instance process come from one build.
pub const BROKER_VERSION: u32 = 2;
/// Bytes of an encoded [`BrokerRequest`].
pub const REQUEST_BYTES: usize = 48;
/// Bytes of an encoded [`AnswerHeader`].
pub const ANSWER_HEADER_BYTES: usize = 16;
/// The most an answer may carry: one page, or an error text.
pub const ANSWER_PAYLOAD_BYTES_MAX: usize = PAGE_BYTES;

/// Bytes of an encoded [`ForkSize`].
pub const FORK_SIZE_BYTES: usize = 20;
/// The most forks an answer lists: what follows the last of them is asked for with another question.
pub const FORKS_LISTED_MAX: usize = ANSWER_PAYLOAD_BYTES_MAX / FORK_SIZE_BYTES;

/// The folder in the data directory where the instance process and the library note the locations that users named for
/// tablespaces: a file for each, named by its OID.
pub const TABLESPACE_LOCATIONS: &str = "borealis_tablespaces";

/// What a backend asks.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum BrokerQuestion {
    /// The page, at least as new as `needed`. `count` pages from it on are likely to be asked for next (1: just it).
    /// Answer: the page.
    ReadPage {
        /// Which page.
        key: PageKey,
        /// What it must be at least.
        needed: Lsn,
        /// How many pages are likely to be asked for.
        count: u16,
    },
    /// Whether the fork exists in the volume, and its size. Answer: [`Status::Ok`] and `value` = blocks, or
    /// [`Status::Absent`]. For a fork other than INIT the payload is one byte: 1 if the relation has an INIT fork, which
    /// means it is unlogged.
    ForkBlocks {
        /// Which fork.
        fork: ForkKey,
        /// How much log the answer must know of.
        needed: Lsn,
    },
    /// Which forks exist in the volume, in the order of their keys. Answer: `value` = how many, and that many
    /// [`ForkSize`]; fewer than [`FORKS_LISTED_MAX`] if there are no more.
    ListForks {
        /// Those of this tablespace only.
        tablespace: Option<u32>,
        /// Those of this database only.
        database: Option<u32>,
        /// Those that come after this one. No fork has nothing but zeros in its key.
        after: ForkKey,
    },
}

/// A fork and how many blocks it has.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct ForkSize {
    /// Which fork.
    pub fork: ForkKey,
    /// Its size.
    pub blocks: u32,
}

impl ForkSize {
    /// Its bytes.
    pub fn encode(&self) -> [u8; FORK_SIZE_BYTES] {
        let relation = self.fork.relation;
        let numbers = [
            relation.tablespace,
            relation.database,
            relation.relation,
            u32::from(self.fork.fork),
            self.blocks,
        ];
        let mut bytes = [0; FORK_SIZE_BYTES];
        for (four, number) in bytes.chunks_exact_mut(4).zip(numbers) {
            four.copy_from_slice(&number.to_le_bytes());
        }
        bytes
    }

    /// The fork and size in `bytes`; `None` if no fork has such a number.
    pub fn decode(bytes: &[u8; FORK_SIZE_BYTES]) -> Option<ForkSize> {
        let relation = RelationKey {
            tablespace: u32_at(bytes, 0),
            database: u32_at(bytes, 4),
            relation: u32_at(bytes, 8),
        };
        let fork = u8::try_from(u32_at(bytes, 12)).ok()?;
        Some(ForkSize {
            fork: relation.fork(fork),
            blocks: u32_at(bytes, 16),
        })
    }
}

/// A numbered question.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct BrokerRequest {
    /// Repeated in the answer.
    pub number: u32,
    /// What is asked.
    pub question: BrokerQuestion,
}

/// How an answer went.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u8)]
pub enum Status {
    /// As asked.
    Ok = 0,
    /// The fork does not exist.
    Absent = 1,
    /// The payload is an error text: nothing could be read (SQLSTATE 58030).
    ReadFailed = 2,
    /// The payload is an error text: what was read is wrong (SQLSTATE XX001).
    Corrupt = 3,
    /// The payload is an error text: another instance holds the volume (SQLSTATE 57P01).
    Fenced = 4,
}

/// The fixed part of an answer.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct AnswerHeader {
    /// Of the request.
    pub number: u32,
    /// How it went.
    pub status: Status,
    /// Blocks of the fork, for [`BrokerQuestion::ForkBlocks`]; how many forks, for [`BrokerQuestion::ListForks`];
    /// otherwise zero.
    pub value: u32,
    /// Bytes that follow.
    pub payload_bytes: u32,
}

/// Bytes that are no broker message.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum BrokerError {
    /// Unknown kind of request.
    #[error("unknown kind of broker request: {0}")]
    UnknownKind(u8),
    /// Unknown status of answer.
    #[error("unknown status of broker answer: {0}")]
    UnknownStatus(u8),
    /// More payload than any answer has.
    #[error("broker answer announces {0} bytes, more than any has")]
    PayloadTooLong(u32),
}

const READ_PAGE: u8 = 1;
const FORK_BLOCKS: u8 = 2;
const LIST_FORKS: u8 = 3;

fn u32_at(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]])
}

impl BrokerRequest {
    /// Its bytes.
    pub fn encode(&self) -> [u8; REQUEST_BYTES] {
        let mut bytes = [0; REQUEST_BYTES];
        let (kind, fork, count, block, needed) = match self.question {
            BrokerQuestion::ReadPage { key, needed, count } => (READ_PAGE, key.fork, count, key.block, needed),
            BrokerQuestion::ForkBlocks { fork, needed } => (FORK_BLOCKS, fork, 0, 0, needed),
            BrokerQuestion::ListForks {
                tablespace,
                database,
                after,
            } => {
                bytes[32..36].copy_from_slice(&tablespace.unwrap_or(0).to_le_bytes());
                bytes[36..40].copy_from_slice(&database.unwrap_or(0).to_le_bytes());
                (LIST_FORKS, after, 0, 0, Lsn::ZERO)
            }
        };
        bytes[0..4].copy_from_slice(&self.number.to_le_bytes());
        bytes[4] = kind;
        bytes[5] = fork.fork;
        bytes[6..8].copy_from_slice(&count.to_le_bytes());
        bytes[8..12].copy_from_slice(&fork.relation.tablespace.to_le_bytes());
        bytes[12..16].copy_from_slice(&fork.relation.database.to_le_bytes());
        bytes[16..20].copy_from_slice(&fork.relation.relation.to_le_bytes());
        bytes[20..24].copy_from_slice(&block.to_le_bytes());
        bytes[24..32].copy_from_slice(&needed.raw().to_le_bytes());
        bytes
    }

    /// The request in `bytes`.
    pub fn decode(bytes: &[u8; REQUEST_BYTES]) -> Result<BrokerRequest, BrokerError> {
        let relation = RelationKey {
            tablespace: u32_at(bytes, 8),
            database: u32_at(bytes, 12),
            relation: u32_at(bytes, 16),
        };
        let fork = relation.fork(bytes[5]);
        let needed = u64::from(u32_at(bytes, 28)) << 32 | u64::from(u32_at(bytes, 24));
        let question = match bytes[4] {
            READ_PAGE => BrokerQuestion::ReadPage {
                key: fork.page(u32_at(bytes, 20)),
                needed: Lsn::from_raw(needed),
                count: u16::from_le_bytes([bytes[6], bytes[7]]),
            },
            FORK_BLOCKS => BrokerQuestion::ForkBlocks {
                fork,
                needed: Lsn::from_raw(needed),
            },
            LIST_FORKS => {
                let wanted = |at| Some(u32_at(bytes, at)).filter(|number| *number != 0);
                BrokerQuestion::ListForks {
                    tablespace: wanted(32),
                    database: wanted(36),
                    after: fork,
                }
            }
            kind => return Err(BrokerError::UnknownKind(kind)),
        };
        Ok(BrokerRequest {
            number: u32_at(bytes, 0),
            question,
        })
    }
}

impl AnswerHeader {
    /// Its bytes.
    pub fn encode(&self) -> [u8; ANSWER_HEADER_BYTES] {
        let mut bytes = [0; ANSWER_HEADER_BYTES];
        bytes[0..4].copy_from_slice(&self.number.to_le_bytes());
        bytes[4] = self.status as u8;
        bytes[8..12].copy_from_slice(&self.value.to_le_bytes());
        bytes[12..16].copy_from_slice(&self.payload_bytes.to_le_bytes());
        bytes
    }

    /// The header in `bytes`.
    pub fn decode(bytes: &[u8; ANSWER_HEADER_BYTES]) -> Result<AnswerHeader, BrokerError> {
        let status = match bytes[4] {
            0 => Status::Ok,
            1 => Status::Absent,
            2 => Status::ReadFailed,
            3 => Status::Corrupt,
            4 => Status::Fenced,
            other => return Err(BrokerError::UnknownStatus(other)),
        };
        let payload_bytes = u32_at(bytes, 12);
        if payload_bytes as usize > ANSWER_PAYLOAD_BYTES_MAX {
            return Err(BrokerError::PayloadTooLong(payload_bytes));
        }
        Ok(AnswerHeader {
            number: u32_at(bytes, 0),
            status,
            value: u32_at(bytes, 8),
            payload_bytes,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn requests_and_answers_read_back() {
        let fork = RelationKey {
            tablespace: 1663,
            database: 5,
            relation: 16384,
        }
        .fork(0);
        let needed = Lsn::from_raw(0x1_0000_0028);
        for question in [
            BrokerQuestion::ReadPage {
                key: fork.page(7),
                needed,
                count: 32,
            },
            BrokerQuestion::ForkBlocks { fork, needed },
            BrokerQuestion::ListForks {
                tablespace: None,
                database: Some(5),
                after: fork,
            },
            BrokerQuestion::ListForks {
                tablespace: Some(1664),
                database: None,
                after: fork,
            },
        ] {
            let request = BrokerRequest { number: 9, question };
            assert_eq!(BrokerRequest::decode(&request.encode()), Ok(request));
        }
        let size = ForkSize { fork, blocks: 77 };
        assert_eq!(ForkSize::decode(&size.encode()), Some(size));
        let mut wrong = size.encode();
        wrong[13] = 1;
        assert_eq!(ForkSize::decode(&wrong), None, "no fork has number 256");
        let header = AnswerHeader {
            number: 9,
            status: Status::Absent,
            value: 3,
            payload_bytes: 1,
        };
        assert_eq!(AnswerHeader::decode(&header.encode()), Ok(header));
        let mut wrong = header.encode();
        wrong[12..16].copy_from_slice(&u32::MAX.to_le_bytes());
        assert_eq!(AnswerHeader::decode(&wrong), Err(BrokerError::PayloadTooLong(u32::MAX)));
    }
}
