//! The main data of SP-GiST's records. Follows `access/spgxlog.h`; tuples in it are not aligned.

use crate::fault::{Fault, slice_at, u8_at, u16_at, u16s_at, u32_at};
use crate::spgutils::{inner_tuple_at_head, leaf_tuple_at_head};

/// `spgxlogState`: what dead tuples say of who made them.
#[derive(Clone, Copy, Debug)]
pub(crate) struct State {
    /// The transaction that leaves redirections behind.
    pub(crate) transaction: u32,
    /// The index is being built: nobody can follow a redirection yet, so there are none.
    pub(crate) is_build: bool,
}

impl State {
    fn decode(data: &[u8], at: usize) -> Result<State, Fault> {
        Ok(State {
            transaction: u32_at(data, at)?,
            is_build: is_set(data, at + 4)?,
        })
    }
}

fn is_set(data: &[u8], at: usize) -> Result<bool, Fault> {
    Ok(u8_at(data, at)? != 0)
}

/// Item numbers of a record, one behind the other.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Numbers<'a>(&'a [u8]);

impl<'a> Numbers<'a> {
    /// `count` numbers at the head of `rest`, which is left behind them.
    fn take(rest: &mut &'a [u8], count: usize) -> Result<Numbers<'a>, Fault> {
        let taken = slice_at(rest, 0, 2 * count)?;
        *rest = &rest[taken.len()..];
        Ok(Numbers(taken))
    }

    pub(crate) fn iter(&self) -> impl DoubleEndedIterator<Item = u16> + Clone + 'a {
        u16s_at(self.0, 0, self.0.len() / 2).into_iter().flatten()
    }

    pub(crate) fn last(&self) -> Result<u16, Fault> {
        let last = self.iter().next_back();
        last.ok_or(Fault::Mismatch("the record names no item"))
    }
}

/// Where the link to something lies: a node of an inner tuple.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Downlink {
    pub(crate) number: u16,
    pub(crate) node: u16,
}

impl Downlink {
    fn decode(data: &[u8], at: usize) -> Result<Downlink, Fault> {
        Ok(Downlink {
            number: u16_at(data, at)?,
            node: u16_at(data, at + 2)?,
        })
    }
}

/// `spgxlogAddLeaf`.
pub(crate) struct AddLeaf<'a> {
    pub(crate) is_new_page: bool,
    pub(crate) stores_nulls: bool,
    pub(crate) number: u16,
    /// The first of the chain, or none.
    pub(crate) head: u16,
    pub(crate) parent: Downlink,
    pub(crate) tuple: &'a [u8],
}

impl<'a> AddLeaf<'a> {
    pub(crate) fn decode(data: &'a [u8]) -> Result<AddLeaf<'a>, Fault> {
        Ok(AddLeaf {
            is_new_page: is_set(data, 0)?,
            stores_nulls: is_set(data, 1)?,
            number: u16_at(data, 2)?,
            head: u16_at(data, 4)?,
            parent: Downlink::decode(data, 6)?,
            tuple: leaf_tuple_at_head(slice_from(data, 10)?)?,
        })
    }
}

/// `spgxlogMoveLeafs`.
pub(crate) struct MoveLeafs<'a> {
    pub(crate) is_new_page: bool,
    pub(crate) stores_nulls: bool,
    pub(crate) parent: Downlink,
    pub(crate) state: State,
    pub(crate) deleted: Numbers<'a>,
    pub(crate) inserted: Numbers<'a>,
    /// As many as `inserted`.
    pub(crate) leaves: LeafTuples<'a>,
}

impl<'a> MoveLeafs<'a> {
    pub(crate) fn decode(data: &'a [u8]) -> Result<MoveLeafs<'a>, Fault> {
        let moves = usize::from(u16_at(data, 0)?);
        let replaces_dead = is_set(data, 3)?;
        let mut rest = slice_from(data, 20)?;
        Ok(MoveLeafs {
            is_new_page: is_set(data, 2)?,
            stores_nulls: is_set(data, 4)?,
            parent: Downlink::decode(data, 6)?,
            state: State::decode(data, 12)?,
            deleted: Numbers::take(&mut rest, moves)?,
            inserted: Numbers::take(&mut rest, if replaces_dead { 1 } else { moves + 1 })?,
            leaves: LeafTuples(rest),
        })
    }
}

/// `spgxlogAddNode`.
pub(crate) struct AddNode<'a> {
    pub(crate) number: u16,
    pub(crate) new_number: u16,
    pub(crate) is_new_page: bool,
    /// The id of the reference to the page with the parent's downlink; another number if there is none to change.
    pub(crate) parent_block: u8,
    pub(crate) parent: Downlink,
    pub(crate) state: State,
    pub(crate) tuple: &'a [u8],
}

impl<'a> AddNode<'a> {
    pub(crate) fn decode(data: &'a [u8]) -> Result<AddNode<'a>, Fault> {
        Ok(AddNode {
            number: u16_at(data, 0)?,
            new_number: u16_at(data, 2)?,
            is_new_page: is_set(data, 4)?,
            parent_block: u8_at(data, 5)?,
            parent: Downlink::decode(data, 6)?,
            state: State::decode(data, 12)?,
            tuple: inner_tuple_at_head(slice_from(data, 20)?)?,
        })
    }
}

/// `spgxlogSplitTuple`.
pub(crate) struct SplitTuple<'a> {
    pub(crate) prefix_number: u16,
    pub(crate) postfix_number: u16,
    pub(crate) is_new_page: bool,
    /// Both tuples are on the original page.
    pub(crate) is_same_page: bool,
    pub(crate) prefix: &'a [u8],
    pub(crate) postfix: &'a [u8],
}

impl<'a> SplitTuple<'a> {
    pub(crate) fn decode(data: &'a [u8]) -> Result<SplitTuple<'a>, Fault> {
        let rest = slice_from(data, 6)?;
        let prefix = inner_tuple_at_head(rest)?;
        Ok(SplitTuple {
            prefix_number: u16_at(data, 0)?,
            postfix_number: u16_at(data, 2)?,
            is_new_page: is_set(data, 4)?,
            is_same_page: is_set(data, 5)?,
            prefix,
            postfix: inner_tuple_at_head(&rest[prefix.len()..])?,
        })
    }
}

/// `spgxlogPickSplit`.
pub(crate) struct PickSplit<'a> {
    pub(crate) is_new_source: bool,
    pub(crate) is_new_destination: bool,
    pub(crate) is_new_inner: bool,
    pub(crate) inner_number: u16,
    pub(crate) stores_nulls: bool,
    pub(crate) inner_is_parent: bool,
    pub(crate) parent: Downlink,
    pub(crate) state: State,
    pub(crate) deleted: Numbers<'a>,
    inserted: Numbers<'a>,
    /// For each of `inserted` where it goes: zero to the source page, anything else to the destination.
    to_destination: &'a [u8],
    pub(crate) inner: &'a [u8],
    leaves: LeafTuples<'a>,
}

impl<'a> PickSplit<'a> {
    pub(crate) fn decode(data: &'a [u8]) -> Result<PickSplit<'a>, Fault> {
        let deletions = usize::from(u16_at(data, 2)?);
        let insertions = usize::from(u16_at(data, 4)?);
        let mut rest = slice_from(data, 28)?;
        let deleted = Numbers::take(&mut rest, deletions)?;
        let inserted = Numbers::take(&mut rest, insertions)?;
        let to_destination = slice_at(rest, 0, insertions)?;
        rest = &rest[insertions..];
        let inner = inner_tuple_at_head(rest)?;
        Ok(PickSplit {
            is_new_source: is_set(data, 6)?,
            is_new_destination: is_set(data, 7)?,
            inner_number: u16_at(data, 8)?,
            is_new_inner: is_set(data, 10)?,
            stores_nulls: is_set(data, 11)?,
            inner_is_parent: is_set(data, 12)?,
            parent: Downlink::decode(data, 14)?,
            state: State::decode(data, 20)?,
            deleted,
            inserted,
            to_destination,
            inner,
            leaves: LeafTuples(&rest[inner.len()..]),
        })
    }

    /// The leaf tuples that go to one of the two leaf pages, with their numbers there.
    pub(crate) fn leaves(&self, on_destination: bool) -> impl Iterator<Item = Result<(u16, &'a [u8]), Fault>> {
        let placed = self.inserted.iter().zip(self.to_destination).zip(self.leaves.iter());
        placed.filter_map(move |((number, to_destination), tuple)| match tuple {
            Ok(tuple) if (*to_destination != 0) == on_destination => Some(Ok((number, tuple))),
            Ok(_) => None,
            Err(fault) => Some(Err(fault)),
        })
    }
}

/// `spgxlogVacuumLeaf`.
pub(crate) struct VacuumLeaf<'a> {
    pub(crate) state: State,
    pub(crate) to_dead: Numbers<'a>,
    pub(crate) to_placeholder: Numbers<'a>,
    /// Each of these changes its place with the one of `moved_to`, and becomes a placeholder.
    pub(crate) moved_from: Numbers<'a>,
    pub(crate) moved_to: Numbers<'a>,
    /// Each of these leads to the one of `chained_to`.
    pub(crate) chained: Numbers<'a>,
    pub(crate) chained_to: Numbers<'a>,
}

impl<'a> VacuumLeaf<'a> {
    pub(crate) fn decode(data: &'a [u8]) -> Result<VacuumLeaf<'a>, Fault> {
        let count = |at| u16_at(data, at).map(usize::from);
        let mut rest = slice_from(data, 16)?;
        let mut take = |count: Result<usize, Fault>| Numbers::take(&mut rest, count?);
        Ok(VacuumLeaf {
            state: State::decode(data, 8)?,
            to_dead: take(count(0))?,
            to_placeholder: take(count(2))?,
            moved_from: take(count(4))?,
            moved_to: take(count(4))?,
            chained: take(count(6))?,
            chained_to: take(count(6))?,
        })
    }
}

/// `spgxlogVacuumRoot`: the items that are deleted from a root page with leaf tuples.
pub(crate) fn vacuum_root(data: &[u8]) -> Result<Numbers<'_>, Fault> {
    let mut rest = slice_from(data, 12)?;
    Numbers::take(&mut rest, u16_at(data, 0)?.into())
}

/// `spgxlogVacuumRedirect`.
pub(crate) struct VacuumRedirect<'a> {
    /// From here on there are nothing but placeholders, which go. Zero: none go.
    pub(crate) first_placeholder: u16,
    pub(crate) to_placeholder: Numbers<'a>,
}

impl<'a> VacuumRedirect<'a> {
    pub(crate) fn decode(data: &'a [u8]) -> Result<VacuumRedirect<'a>, Fault> {
        let mut rest = slice_from(data, 8)?;
        Ok(VacuumRedirect {
            first_placeholder: u16_at(data, 2)?,
            to_placeholder: Numbers::take(&mut rest, u16_at(data, 0)?.into())?,
        })
    }
}

/// Leaf tuples one behind the other, each as long as it says.
#[derive(Clone, Copy)]
pub(crate) struct LeafTuples<'a>(&'a [u8]);

impl<'a> LeafTuples<'a> {
    /// Endless: behind the last tuple come errors.
    pub(crate) fn iter(&self) -> impl Iterator<Item = Result<&'a [u8], Fault>> {
        let mut rest = self.0;
        std::iter::repeat_with(move || {
            let tuple = leaf_tuple_at_head(rest)?;
            rest = &rest[tuple.len()..];
            Ok(tuple)
        })
    }
}

fn slice_from(data: &[u8], at: usize) -> Result<&[u8], Fault> {
    data.get(at..).ok_or(Fault::Mismatch("the record is too short"))
}
