//! Whether a font file is whole: its table directory stands in it and names
//! nothing outside of it. Pure.
//!
//! | format | directory |
//! |---|---|
//! | TrueType, OpenType | 12 bytes, then 16 for each table, with its place and length |
//! | WOFF | 44 bytes, then 20 for each table, with its place and packed length |
//! | WOFF2 | 48 bytes, then one entry of varying length for each table; all tables in one packed stream behind them |
//!
//! What the tables say is looked at by the engine, in the jail.

/// Of TrueType and OpenType.
const SFNT_HEADER: usize = 12;
const SFNT_ENTRY: usize = 16;
const WOFF_HEADER: usize = 44;
const WOFF_ENTRY: usize = 20;
const WOFF2_HEADER: usize = 48;

/// Marks of tables whose place in WOFF2's list of names is 10 and 11: `glyf` and
/// `loca`. They alone are changed before they are packed unless it is said.
const GLYF_LOCA: [u8; 2] = [10, 11];
/// The table's name follows.
const NAMED: u8 = 0x3f;

/// Whether `file`, a font by its first bytes, has a directory that fits it.
#[must_use]
pub fn is_whole(file: &[u8]) -> bool {
    match file {
        [b'w', b'O', b'F', b'F', ..] => woff(file),
        [b'w', b'O', b'F', b'2', ..] => woff2(file),
        _ => sfnt(file),
    }
    .is_some()
}

fn sfnt(file: &[u8]) -> Option<()> {
    let tables = be16(file, 4)?;
    let directory = SFNT_HEADER.checked_add(tables.checked_mul(SFNT_ENTRY)?)?;
    (tables > 0 && directory <= file.len()).then_some(())?;
    (0..tables).try_for_each(|table| {
        let entry = SFNT_HEADER + table * SFNT_ENTRY;
        within(file, be32(file, entry + 8)?, be32(file, entry + 12)?)
    })
}

fn woff(file: &[u8]) -> Option<()> {
    let tables = be16(file, 12)?;
    let directory = WOFF_HEADER.checked_add(tables.checked_mul(WOFF_ENTRY)?)?;
    let says = be32(file, 8)?;
    (tables > 0 && says == file.len() && directory <= file.len()).then_some(())?;
    (0..tables).try_for_each(|table| {
        let entry = WOFF_HEADER + table * WOFF_ENTRY;
        within(file, be32(file, entry + 4)?, be32(file, entry + 8)?)
    })
}

fn woff2(file: &[u8]) -> Option<()> {
    let (tables, packed) = (be16(file, 12)?, be32(file, 20)?);
    (tables > 0 && packed > 0 && be32(file, 8)? == file.len()).then_some(())?;
    let mut at = WOFF2_HEADER;
    for _ in 0..tables {
        let flags = *file.get(at)?;
        at += 1;
        let (name, version) = (flags & NAMED, flags >> 6);
        if name == NAMED {
            at += 4;
        }
        skip_number(file, &mut at)?;
        // Of these two, 3 means as it was; of all others, 0.
        let changed = if GLYF_LOCA.contains(&name) { version != 3 } else { version != 0 };
        if changed {
            skip_number(file, &mut at)?;
        }
    }
    within(file, at, packed)
}

/// A number of up to five bytes, seven bits each; all but the last have the eighth set.
fn skip_number(file: &[u8], at: &mut usize) -> Option<()> {
    for _ in 0..5 {
        let byte = *file.get(*at)?;
        *at += 1;
        if byte & 0x80 == 0 {
            return Some(());
        }
    }
    None
}

fn within(file: &[u8], start: usize, length: usize) -> Option<()> {
    (start.checked_add(length)? <= file.len()).then_some(())
}

fn be16(file: &[u8], at: usize) -> Option<usize> {
    Some(usize::from(u16::from_be_bytes(file.get(at..at.checked_add(2)?)?.try_into().ok()?)))
}

fn be32(file: &[u8], at: usize) -> Option<usize> {
    let number = u32::from_be_bytes(file.get(at..at.checked_add(4)?)?.try_into().ok()?);
    usize::try_from(number).ok()
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    /// A font of one table of four bytes, in each format.
    pub(in crate::job) fn sfnt_file(signature: &[u8; 4]) -> Vec<u8> {
        [signature, &[0, 1][..], &[0; 6], b"glyf", &[0; 4], &[0, 0, 0, 28], &[0, 0, 0, 4], b"data"]
            .concat()
    }

    pub(in crate::job) fn woff_file() -> Vec<u8> {
        let header = [b"wOFF", &[0, 1, 0, 0][..], &[0, 0, 0, 68], &[0, 1], &[0; 30]].concat();
        let entry = [b"glyf", &[0, 0, 0, 64][..], &[0, 0, 0, 4], &[0, 0, 0, 4], &[0; 4]].concat();
        [header, entry, b"data".to_vec()].concat()
    }

    /// Tables: `glyf` changed, `loca` as it was, one with its name.
    pub(in crate::job) fn woff2_file() -> Vec<u8> {
        let directory =
            [&[10, 0x81, 0x00, 5][..], &[11 | 3 << 6, 9], &[NAMED], b"meow", &[7]].concat();
        let length = u8::try_from(WOFF2_HEADER + directory.len() + 4).unwrap();
        let header = [
            b"wOF2",
            &[0, 1, 0, 0][..],
            &[0, 0, 0, length],
            &[0, 3],
            &[0; 6],
            &[0, 0, 0, 4],
            &[0; 24],
        ]
        .concat();
        [header, directory, b"data".to_vec()].concat()
    }

    #[test]
    fn a_whole_font_is_told_from_a_part_of_one() {
        for font in [sfnt_file(&[0, 1, 0, 0]), sfnt_file(b"OTTO"), woff_file(), woff2_file()] {
            assert!(is_whole(&font), "{font:?}");
            for end in 0..font.len() {
                assert!(!is_whole(&font[..end]), "{end} bytes of {font:?}");
            }
        }
        // The formats that say their length have nothing behind it.
        assert!(!is_whole(&[&woff_file()[..], b"x"].concat()));
        assert!(is_whole(&[&sfnt_file(b"true")[..], b"x"].concat()));
    }

    #[test]
    fn tables_outside_of_the_file_and_no_tables_are_refused() {
        let changed = |mut font: Vec<u8>, at: usize, byte: u8| {
            font[at] = byte;
            font
        };
        for font in [
            changed(sfnt_file(b"true"), 5, 0),
            changed(sfnt_file(b"true"), 4, 0xff),
            changed(sfnt_file(b"true"), 20, 0xff),
            changed(sfnt_file(b"true"), 27, 5),
            changed(woff_file(), 13, 0),
            changed(woff_file(), 51, 65),
            changed(woff2_file(), 13, 4),
            changed(woff2_file(), 23, 5),
            changed(woff2_file(), 23, 0),
        ] {
            assert!(!is_whole(&font), "{font:?}");
        }
    }

    proptest::proptest! {
        #[test]
        fn any_bytes_are_survived(
            start in proptest::sample::select(vec![&b""[..], b"wOFF", b"wOF2", b"OTTO", b"true"]),
            rest in proptest::collection::vec(proptest::prelude::any::<u8>(), 0..200),
        ) {
            let file = [start, &rest].concat();
            // A directory with one table takes more than these.
            proptest::prop_assert!(!is_whole(&file) || file.len() >= 28);
        }
    }
}
