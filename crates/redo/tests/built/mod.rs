//! Records put together by hand.

/// A page image as it stands in a record: uncompressed it may have a hole, compressed it has none.
#[derive(Clone, Debug)]
pub struct Image {
    pub bytes: Vec<u8>,
    pub hole_offset: u16,
    /// `bimg_info`.
    pub info: u8,
}

/// One block reference, to the block of relation 1663/5/16384 that has the reference's own number.
#[derive(Clone, Debug, Default)]
pub struct Block {
    pub flags: u8,
    pub image: Option<Image>,
    pub data: Vec<u8>,
}

/// A record of transaction 7; its CRC is not checked by redo.
pub fn record(manager: u8, info: u8, blocks: &[Block], main: &[u8]) -> Vec<u8> {
    const HAS_IMAGE: u8 = 0x10;
    const HAS_DATA: u8 = 0x20;
    const MAIN_DATA_LONG: u8 = 254;
    let (mut headers, mut contents) = (Vec::new(), Vec::new());
    for (id, block) in blocks.iter().enumerate() {
        let has_image = if block.image.is_some() { HAS_IMAGE } else { 0 };
        let has_data = if block.data.is_empty() { 0 } else { HAS_DATA };
        headers.extend_from_slice(&[id as u8, block.flags | has_image | has_data]);
        headers.extend_from_slice(&(block.data.len() as u16).to_le_bytes());
        if let Some(image) = &block.image {
            headers.extend_from_slice(&(image.bytes.len() as u16).to_le_bytes());
            headers.extend_from_slice(&image.hole_offset.to_le_bytes());
            headers.push(image.info);
            contents.extend_from_slice(&image.bytes);
        }
        for number in [1663u32, 5, 16384, id as u32] {
            headers.extend_from_slice(&number.to_le_bytes());
        }
        contents.extend_from_slice(&block.data);
    }
    headers.push(MAIN_DATA_LONG);
    headers.extend_from_slice(&(main.len() as u32).to_le_bytes());
    contents.extend_from_slice(main);
    let total = 24 + headers.len() + contents.len();
    let mut record = Vec::with_capacity(total);
    record.extend_from_slice(&(total as u32).to_le_bytes());
    record.extend_from_slice(&7u32.to_le_bytes());
    record.extend_from_slice(&[0; 8]);
    record.extend_from_slice(&[info, manager, 0, 0, 0, 0, 0, 0]);
    record.extend_from_slice(&headers);
    record.extend_from_slice(&contents);
    record
}
