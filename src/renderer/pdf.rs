//! The finished file: Chromium's PDF in, a deterministic PDF out. Pure.
//!
//! Chromium writes PDF 1.4 with one classic cross-reference table, one object
//! after the other and no incremental updates, so no PDF library is needed:
//! the table says where every object stands, a few of them are replaced, and
//! everything else is copied once. What is changed:
//!
//! - the information dictionary: the job's title and date; the user agent and
//!   Chromium's version do not leak;
//! - `/ID`: from the content, so that the same job gives the same bytes;
//! - the names of structure elements (`node00000043`), which Chromium counts
//!   across all documents of a process: they are numbered anew;
//! - the page boxes: Chromium rounds paper up to whole points.
//!
//! Every offset is checked. A file that is not what Chromium writes is
//! [`Malformed`], never a panic, and never written.

mod lexer;
mod tree;

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::ops::Range;

use sha2::{Digest, Sha256};
use time::OffsetDateTime;

use crate::job::options::Info;

pub use tree::{Document, Page};

/// A file that is not what Chromium writes. What is wrong with it, in few words.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the PDF is not as Chromium writes it: {0}")]
pub struct Malformed(pub &'static str);

/// The program that made the file, as it says itself.
const CREATOR: &str = "Tillroll";
/// The library that wrote it, without a version: bytes must outlive an update.
const PRODUCER: &str = "Tillroll (Skia/PDF)";
/// A page box further than this from the asked size is the document's own wish.
const SNAP_POINTS: f64 = 1.5;
/// Less than this much of a page's top may be cut to keep its origin at zero.
const INVISIBLE_POINTS: f64 = 0.05;

/// What a file is to say about itself, and how large its pages are to be.
#[derive(Debug, Clone, Copy)]
pub struct Stamp<'a> {
    /// The job's own description.
    pub info: &'a Info,
    /// The date where `info` has none.
    pub date: OffsetDateTime,
    /// Width and height in points that pages of about this size get exactly;
    /// without a height every page of about this width.
    pub size: (f64, Option<f64>),
}

/// A finished file. Its digest goes over the bytes that its `/ID` goes over, and on.
#[derive(Debug, Clone)]
pub struct Finished {
    /// The file.
    pub pdf: Vec<u8>,
    /// Its SHA-256.
    pub sha256: [u8; 32],
}

/// One replacement.
struct Edit {
    range: Range<usize>,
    bytes: Vec<u8>,
}

impl Document<'_> {
    /// Writes the file as `stamp` wants it, in one pass.
    ///
    /// # Errors
    /// [`Malformed`] where an object that must be changed is not as expected.
    pub fn finish(&self, stamp: &Stamp<'_>) -> Result<Finished, Malformed> {
        let mut edits = vec![self.information(stamp)?];
        edits.extend(self.pages().iter().filter_map(|page| snapped(page, stamp.size)));
        if self.is_tagged() {
            edits.extend(self.renumbered()?);
        }
        edits.sort_by_key(|edit| edit.range.start);
        self.write(&edits)
    }

    /// The information dictionary, written anew.
    fn information(&self, stamp: &Stamp<'_>) -> Result<Edit, Malformed> {
        let old = self.info_dictionary()?;
        let info = stamp.info;
        let mut bytes = Vec::with_capacity(256);
        bytes.extend_from_slice(b"<<");
        let title = match &info.title {
            Some(title) => Some(text_string(title)),
            None => self.raw_entry(&old, b"Title")?.map(<[u8]>::to_vec),
        };
        let text = |value: &Option<String>| value.as_deref().map(text_string);
        let date = date_string(info.date.unwrap_or(stamp.date));
        for (key, value) in [
            ("Title", title),
            ("Author", text(&info.author)),
            ("Subject", text(&info.subject)),
            ("Keywords", text(&info.keywords)),
            ("Creator", Some(text_string(CREATOR))),
            ("Producer", Some(text_string(PRODUCER))),
            ("CreationDate", Some(date.clone())),
            ("ModDate", Some(date)),
        ] {
            if let Some(value) = value {
                bytes.push(b'/');
                bytes.extend_from_slice(key.as_bytes());
                bytes.push(b' ');
                bytes.extend_from_slice(&value);
                bytes.push(b'\n');
            }
        }
        bytes.extend_from_slice(b">>");
        Ok(Edit { range: old, bytes })
    }

    /// The names of structure elements, counted from 1 in their own order, so
    /// that the sorted name tree over them stays sorted.
    fn renumbered(&self) -> Result<Vec<Edit>, Malformed> {
        let names = self.node_names()?;
        let mut ranks: BTreeMap<u64, u64> = names.iter().map(|(_, number)| (*number, 0)).collect();
        for (rank, slot) in (1..).zip(ranks.values_mut()) {
            *slot = rank;
        }
        Ok(names
            .into_iter()
            .map(|(range, number)| {
                let rank = ranks.get(&number).copied().unwrap_or_default();
                Edit { range, bytes: format!("(node{rank:08})").into_bytes() }
            })
            .collect())
    }

    /// Copies the body with `edits`, which are in order, and writes table and trailer anew.
    fn write(&self, edits: &[Edit]) -> Result<Finished, Malformed> {
        let body = self.body();
        let grown: usize = edits.iter().map(|edit| edit.bytes.len()).sum();
        let mut out = Vec::with_capacity(self.bytes().len() + grown + 256);
        let mut offsets = vec![None; self.objects().len()];
        let mut order: Vec<(usize, usize)> = self
            .objects()
            .iter()
            .enumerate()
            .filter_map(|(number, offset)| offset.map(|offset| (offset, number)))
            .collect();
        order.sort_unstable();
        let mut objects = order.into_iter().peekable();
        let mut copied = 0;
        for edit in edits {
            while let Some((offset, number)) = objects.next_if(|(at, _)| *at <= edit.range.start) {
                let offset = offset.checked_sub(copied).ok_or(Malformed("overlapping objects"))?;
                set(&mut offsets, number, out.len() + offset)?;
            }
            out.extend_from_slice(
                body.get(copied..edit.range.start).ok_or(Malformed("overlapping objects"))?,
            );
            out.extend_from_slice(&edit.bytes);
            copied = edit.range.end;
        }
        for (offset, number) in objects {
            let offset = offset.checked_sub(copied).ok_or(Malformed("overlapping objects"))?;
            set(&mut offsets, number, out.len() + offset)?;
        }
        out.extend_from_slice(body.get(copied..).ok_or(Malformed("an object beyond its end"))?);
        self.close(out, &offsets)
    }

    /// Appends the cross-reference table and the trailer.
    fn close(&self, mut out: Vec<u8>, offsets: &[Option<usize>]) -> Result<Finished, Malformed> {
        let mut hash = Sha256::new_with_prefix(&out);
        let id = hash.clone().finalize();
        let start = out.len();
        let mut tail = String::with_capacity(offsets.len() * 20 + 256);
        let mut hex = String::with_capacity(32);
        for byte in id.iter().take(16) {
            write!(hex, "{byte:02X}").map_err(|_| Malformed("no room for its id"))?;
        }
        tail.push_str(&format!("xref\n0 {}\n", offsets.len()));
        for offset in offsets {
            match offset {
                Some(offset) => tail.push_str(&format!("{offset:010} 00000 n \n")),
                None => tail.push_str("0000000000 65535 f \n"),
            }
        }
        tail.push_str(&format!(
            "trailer\n<</Size {}\n/Root {} 0 R\n/Info {} 0 R\n/ID [<{hex}> <{hex}>]>>\n\
             startxref\n{start}\n%%EOF\n",
            offsets.len(),
            self.root(),
            self.info(),
        ));
        hash.update(tail.as_bytes());
        out.extend_from_slice(tail.as_bytes());
        Ok(Finished { pdf: out, sha256: hash.finalize().into() })
    }
}

fn set(offsets: &mut [Option<usize>], number: usize, at: usize) -> Result<(), Malformed> {
    *offsets.get_mut(number).ok_or(Malformed("an object outside its table"))? = Some(at);
    Ok(())
}

/// The page box of exactly `size`, where the page is about that large.
///
/// Content hangs from the top of Chromium's page, so a page that loses height
/// loses it at the bottom: the origin moves up, unless nobody could see it.
fn snapped(page: &Page, (width, height): (f64, Option<f64>)) -> Option<Edit> {
    let [left, bottom, right, top] = page.media_box;
    let near = |got: f64, want: f64| (got - want).abs() < SNAP_POINTS;
    if left != 0.0 || bottom != 0.0 || !near(right, width) {
        return None;
    }
    let height = match height {
        Some(height) if near(top, height) => height,
        Some(_) => return None,
        None => top,
    };
    let cut = top - height;
    let (bottom, top) = if cut > INVISIBLE_POINTS { (cut, top) } else { (0.0, height) };
    let bytes = format!("[0 {} {} {}]", number(bottom), number(width), number(top)).into_bytes();
    Some(Edit { range: page.media_box_at.clone(), bytes })
}

/// A number as PDF writes it, to a thousandth of a point.
fn number(value: f64) -> String {
    let text = format!("{value:.3}");
    text.trim_end_matches('0').trim_end_matches('.').to_owned()
}

/// A text string: a literal where it is ASCII, UTF-16BE with its mark otherwise.
fn text_string(text: &str) -> Vec<u8> {
    let plain = |byte: u8| (0x20..0x7f).contains(&byte);
    if text.bytes().all(plain) {
        let mut out = Vec::with_capacity(text.len() + 2);
        out.push(b'(');
        for byte in text.bytes() {
            if matches!(byte, b'(' | b')' | b'\\') {
                out.push(b'\\');
            }
            out.push(byte);
        }
        out.push(b')');
        return out;
    }
    let mut hex = String::with_capacity(text.len() * 4 + 6);
    hex.push_str("<FEFF");
    for unit in text.encode_utf16() {
        hex.push_str(&format!("{unit:04X}"));
    }
    hex.push('>');
    hex.into_bytes()
}

/// A date as PDF writes it, to the second.
fn date_string(date: OffsetDateTime) -> Vec<u8> {
    let (hours, minutes, _) = date.offset().as_hms();
    let sign = if date.offset().is_negative() { '-' } else { '+' };
    format!(
        "(D:{:04}{:02}{:02}{:02}{:02}{:02}{sign}{:02}'{:02}')",
        date.year().clamp(0, 9999),
        u8::from(date.month()),
        date.day(),
        date.hour(),
        date.minute(),
        date.second(),
        hours.unsigned_abs(),
        minutes.unsigned_abs(),
    )
    .into_bytes()
}

#[cfg(test)]
mod tests;
