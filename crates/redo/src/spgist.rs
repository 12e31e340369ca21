//! SP-GiST. Follows `spg_redo` in `access/spgist/spgxlog.c`.
//!
//! The ids of block references have fixed meanings, and references that a record does not need are left out.

use units::Lsn;
use wal::{BlockReference, DecodedRecord};

use crate::bufpage::PageMut;
use crate::fault::{Applied, Fault};
use crate::heap_tuple::TupleId;
use crate::spgutils::DeadTuple;
use crate::spgxlog::{AddLeaf, AddNode, MoveLeafs, PickSplit, SplitTuple, VacuumLeaf, VacuumRedirect, vacuum_root};

const ADD_LEAF: u8 = 0x10;
const MOVE_LEAFS: u8 = 0x20;
const ADD_NODE: u8 = 0x30;
const SPLIT_TUPLE: u8 = 0x40;
const PICKSPLIT: u8 = 0x50;
const VACUUM_LEAF: u8 = 0x60;
const VACUUM_ROOT: u8 = 0x70;
const VACUUM_REDIRECT: u8 = 0x80;

pub(crate) fn redo(
    record: &DecodedRecord<'_>,
    end: Lsn,
    block: &BlockReference<'_>,
    page: &mut PageMut<'_>,
) -> Applied {
    match record.operation() {
        ADD_LEAF => add_leaf(record, block, page)?,
        MOVE_LEAFS => move_leafs(record, block, page)?,
        ADD_NODE => add_node(record, block, page)?,
        SPLIT_TUPLE => split_tuple(record, block, page)?,
        PICKSPLIT => pick_split(record, block, page)?,
        VACUUM_LEAF => vacuum_leaf(&VacuumLeaf::decode(record.data)?, page)?,
        VACUUM_ROOT => page.delete_spgist(vacuum_root(record.data)?.iter())?,
        VACUUM_REDIRECT => vacuum_redirect(&VacuumRedirect::decode(record.data)?, page)?,
        _ => return Err(Fault::Unsupported),
    }
    page.set_lsn(end);
    Ok(())
}

/// An item on the page of another reference of the same record.
fn on_page_of(record: &DecodedRecord<'_>, id: u8, number: u16) -> Result<TupleId, Fault> {
    let block = record.block(id);
    let block = block.ok_or(Fault::Mismatch("the record does not name the page of a tuple"))?;
    Ok(TupleId {
        block: block.key.block,
        number,
    })
}

/// `spgRedoAddLeaf`.
fn add_leaf(record: &DecodedRecord<'_>, block: &BlockReference<'_>, page: &mut PageMut<'_>) -> Applied {
    let added = AddLeaf::decode(record.data)?;
    match block.id {
        0 => {
            if added.is_new_page {
                page.init_spgist_leaf(added.stores_nulls);
            }
            if added.number == added.head {
                // A dead chain comes to life again.
                return page.replace_spgist(added.tuple, added.number);
            }
            page.add_or_replace_spgist(added.tuple, added.number)?;
            if added.head != 0 {
                page.set_chain(added.head, added.number)?;
            }
            Ok(())
        }
        1 => page.set_downlink(added.parent, on_page_of(record, 0, added.number)?),
        _ => Err(Fault::Unsupported),
    }
}

/// `spgRedoMoveLeafs`: a chain moves to another page as a whole, with one leaf more.
fn move_leafs(record: &DecodedRecord<'_>, block: &BlockReference<'_>, page: &mut PageMut<'_>) -> Applied {
    let moved = MoveLeafs::decode(record.data)?;
    // The one inserted last is the first of the chain.
    let head = on_page_of(record, 1, moved.inserted.last()?)?;
    match block.id {
        0 if moved.state.is_build => page.kill_spgist(
            moved.deleted,
            DeadTuple::Placeholder,
            DeadTuple::Placeholder,
            moved.state,
        ),
        0 => page.kill_spgist(
            moved.deleted,
            DeadTuple::Redirect(head),
            DeadTuple::Placeholder,
            moved.state,
        ),
        1 => {
            if moved.is_new_page {
                page.init_spgist_leaf(moved.stores_nulls);
            }
            let mut placed = moved.inserted.iter().zip(moved.leaves.iter());
            placed.try_for_each(|(number, tuple)| page.add_or_replace_spgist(tuple?, number))
        }
        2 => page.set_downlink(moved.parent, head),
        _ => Err(Fault::Unsupported),
    }
}

/// `spgRedoAddNode`: an inner tuple gets one more node, in its place or elsewhere.
fn add_node(record: &DecodedRecord<'_>, block: &BlockReference<'_>, page: &mut PageMut<'_>) -> Applied {
    let added = AddNode::decode(record.data)?;
    if record.block(1).is_none() {
        return match block.id {
            0 => page.replace_spgist(added.tuple, added.number),
            _ => Err(Fault::Unsupported),
        };
    }
    let new = on_page_of(record, 1, added.new_number)?;
    match block.id {
        0 if added.state.is_build => page.replace_by_dead(DeadTuple::Placeholder, added.number, added.state)?,
        0 => page.replace_by_dead(DeadTuple::Redirect(new), added.number, added.state)?,
        1 => {
            if added.is_new_page {
                page.init_spgist_inner(false);
            }
            page.add_or_replace_spgist(added.tuple, added.new_number)?;
        }
        2 => {}
        _ => return Err(Fault::Unsupported),
    }
    if added.parent_block == block.id {
        page.set_downlink(added.parent, new)?;
    }
    Ok(())
}

/// `spgRedoSplitTuple`: an inner tuple becomes two, one above the other.
fn split_tuple(record: &DecodedRecord<'_>, block: &BlockReference<'_>, page: &mut PageMut<'_>) -> Applied {
    let split = SplitTuple::decode(record.data)?;
    match block.id {
        0 => page.replace_spgist(split.prefix, split.prefix_number)?,
        1 if split.is_same_page => return Err(Fault::Mismatch("the lower tuple is not on another page")),
        1 if split.is_new_page => page.init_spgist_inner(false),
        1 => {}
        _ => return Err(Fault::Unsupported),
    }
    if (block.id == 0) == split.is_same_page {
        page.add_or_replace_spgist(split.postfix, split.postfix_number)?;
    }
    Ok(())
}

/// `spgRedoPickSplit`: leaves move from one page to one or two, under a new inner tuple.
fn pick_split(record: &DecodedRecord<'_>, block: &BlockReference<'_>, page: &mut PageMut<'_>) -> Applied {
    let split = PickSplit::decode(record.data)?;
    let inner = on_page_of(record, 2, split.inner_number)?;
    match block.id {
        0 if split.is_new_source => page.init_spgist_leaf(split.stores_nulls),
        0 => {
            let first = if split.state.is_build {
                DeadTuple::Placeholder
            } else {
                DeadTuple::Redirect(inner)
            };
            page.kill_spgist(split.deleted, first, DeadTuple::Placeholder, split.state)?;
        }
        1 if split.is_new_destination => page.init_spgist_leaf(split.stores_nulls),
        1 => {}
        2 => {
            if split.is_new_inner {
                page.init_spgist_inner(split.stores_nulls);
            }
            page.add_or_replace_spgist(split.inner, split.inner_number)?;
            if split.inner_is_parent {
                page.set_downlink(split.parent, inner)?;
            }
            return Ok(());
        }
        3 => return page.set_downlink(split.parent, inner),
        _ => return Err(Fault::Unsupported),
    }
    for leaf in split.leaves(block.id == 1) {
        let (number, tuple) = leaf?;
        page.add_or_replace_spgist(tuple, number)?;
    }
    Ok(())
}

/// `spgRedoVacuumLeaf`.
fn vacuum_leaf(vacuum: &VacuumLeaf<'_>, page: &mut PageMut<'_>) -> Applied {
    page.kill_spgist(vacuum.to_dead, DeadTuple::Dead, DeadTuple::Dead, vacuum.state)?;
    let placeholders = |page: &mut PageMut<'_>, numbers| {
        page.kill_spgist(numbers, DeadTuple::Placeholder, DeadTuple::Placeholder, vacuum.state)
    };
    placeholders(page, vacuum.to_placeholder)?;
    for (from, to) in vacuum.moved_from.iter().zip(vacuum.moved_to.iter()) {
        let (source, target) = (page.stored(from)?, page.stored(to)?);
        page.set_pointer(from, target);
        page.set_pointer(to, source);
    }
    placeholders(page, vacuum.moved_from)?;
    let mut chained = vacuum.chained.iter().zip(vacuum.chained_to.iter());
    chained.try_for_each(|(number, next)| page.set_chain(number, next))
}

/// `spgRedoVacuumRedirect`.
fn vacuum_redirect(vacuum: &VacuumRedirect<'_>, page: &mut PageMut<'_>) -> Applied {
    for number in vacuum.to_placeholder.iter() {
        page.redirect_to_placeholder(number)?;
    }
    if vacuum.first_placeholder != 0 {
        page.drop_placeholders(vacuum.first_placeholder)?;
    }
    Ok(())
}
