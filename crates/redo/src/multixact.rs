//! Multixacts. Follows `multixact_redo` and `RecordNewMultiXact` in `access/transam/multixact.c`.

use units::{PageKey, RelationKey};
use wal::{
    DecodedRecord, MULTIXACT_MEMBERS_PER_PAGE, MULTIXACT_OFFSETS_PER_PAGE, MultixactCreation, multixact_member_page,
    multixact_offset_page, next_multixact,
};

use crate::bufpage::PageMut;
use crate::fault::{Applied, Fault};

const ZERO_OFFSETS_PAGE: u8 = 0x00;
const ZERO_MEMBERS_PAGE: u8 = 0x10;
/// Members stand in groups of four: four flag bytes, then four transactions.
const MEMBERS_PER_GROUP: u32 = 4;
const GROUP_BYTES: usize = 20;

pub(crate) fn redo(record: &DecodedRecord<'_>, key: PageKey, page: &mut PageMut<'_>) -> Applied {
    let creation = MultixactCreation::of(record).map_err(|_| Fault::Mismatch("its fields cannot be read"))?;
    let Some(creation) = creation else {
        return match record.operation() {
            ZERO_OFFSETS_PAGE | ZERO_MEMBERS_PAGE => {
                page.bytes_mut().fill(0);
                Ok(())
            }
            _ => Err(Fault::Unsupported),
        };
    };
    match key.fork.relation {
        RelationKey::MULTIXACT_OFFSETS => offsets(&creation, key, page),
        RelationKey::MULTIXACT_MEMBERS => members(&creation, key, page),
        _ => return Err(Fault::Unsupported),
    }
    Ok(())
}

/// Where its members begin, and, since 15.16, where those of the next one will.
fn offsets(creation: &MultixactCreation<'_>, key: PageKey, page: &mut PageMut<'_>) {
    let next = next_multixact(creation.multixact);
    // Like GetNewMultiXactId, zero is skipped.
    let next_offset = creation.next_offset().max(1);
    for (multixact, offset) in [(creation.multixact, creation.offset), (next, next_offset)] {
        if multixact_offset_page(multixact) == key {
            let at = 4 * (multixact % MULTIXACT_OFFSETS_PER_PAGE) as usize;
            page.set_u32(at, offset);
        }
    }
}

fn members(creation: &MultixactCreation<'_>, key: PageKey, page: &mut PageMut<'_>) {
    for (index, member) in creation.members().enumerate() {
        let offset = creation.offset.wrapping_add(index as u32);
        if multixact_member_page(offset) != key {
            continue;
        }
        let on_page = offset % MULTIXACT_MEMBERS_PER_PAGE;
        let group = GROUP_BYTES * (on_page / MEMBERS_PER_GROUP) as usize;
        let slot = (on_page % MEMBERS_PER_GROUP) as usize;
        page.set_u32(group + 4 + 4 * slot, member.transaction);
        page.bytes_mut()[group + slot] = member.status as u8;
    }
}
