//! Reading Chromium's PDF: the cross-reference table, the trailer, the pages.

use std::cell::Cell;
use std::ops::Range;

use super::Malformed;
use super::lexer::{Kind, Lexer, parse};

/// How deep a page tree may be; Skia's grows with the logarithm of the pages.
const MAX_DEPTH: usize = 32;
/// No page count that a render time would allow comes near this.
const MAX_PAGES: usize = 100_000;
/// Each object is read a few times; a file whose objects lie within each other, or
/// whose pages are all one object, would be read for ever.
const MOST_READ: usize = 8;

/// A file whose table and page tree have been read.
#[derive(Debug, Clone)]
pub struct Document<'a> {
    data: &'a [u8],
    /// Where each object begins; object 0 and free ones have none.
    objects: Vec<Option<usize>>,
    /// Where the cross-reference table begins.
    table: usize,
    root: usize,
    info: usize,
    pages: Vec<Page>,
    tagged: bool,
    /// Bytes of objects that have been read, again and again included.
    read: Cell<usize>,
}

/// One page.
#[derive(Debug, Clone, PartialEq)]
pub struct Page {
    /// Left, bottom, right, top, in points.
    pub media_box: [f64; 4],
    /// Where its array stands in the file.
    pub(super) media_box_at: Range<usize>,
}

impl<'a> Document<'a> {
    /// Reads table, trailer and page tree.
    ///
    /// # Errors
    /// [`Malformed`] for anything that Chromium does not write.
    pub fn read(data: &'a [u8]) -> Result<Self, Malformed> {
        if !data.starts_with(b"%PDF-1.") {
            return Err(Malformed("no header"));
        }
        let table = table_offset(data)?;
        let mut lexer = Lexer::new(data, table);
        let objects = read_table(&mut lexer, data.len(), table)?;
        lexer.word(b"trailer")?;
        let trailer = lexer.value()?;
        let mut document = Self {
            data,
            objects,
            table,
            root: 0,
            info: 0,
            pages: Vec::new(),
            tagged: false,
            read: Cell::new(0),
        };
        document.root = document.reference(&trailer, b"Root")?.ok_or(Malformed("no root"))?;
        document.info =
            document.reference(&trailer, b"Info")?.ok_or(Malformed("no information"))?;
        let catalog = document.object(document.root)?;
        document.tagged = document.raw_entry(&catalog, b"StructTreeRoot")?.is_some();
        let tree = document.reference(&catalog, b"Pages")?.ok_or(Malformed("no pages"))?;
        document.pages = document.read_pages(tree)?;
        Ok(document)
    }

    /// The pages, in reading order.
    #[must_use]
    pub fn pages(&self) -> &[Page] {
        &self.pages
    }

    /// Whether it carries accessibility tags.
    #[must_use]
    pub fn is_tagged(&self) -> bool {
        self.tagged
    }

    pub(super) fn bytes(&self) -> &'a [u8] {
        self.data
    }

    pub(super) fn objects(&self) -> &[Option<usize>] {
        &self.objects
    }

    pub(super) fn root(&self) -> usize {
        self.root
    }

    pub(super) fn info(&self) -> usize {
        self.info
    }

    /// Everything before the cross-reference table.
    pub(super) fn body(&self) -> &'a [u8] {
        self.data.get(..self.table).unwrap_or_default()
    }

    /// Where the information dictionary stands.
    pub(super) fn info_dictionary(&self) -> Result<Range<usize>, Malformed> {
        self.object(self.info)
    }

    /// Where the value of object `number` stands.
    fn object(&self, number: usize) -> Result<Range<usize>, Malformed> {
        let at = self.objects.get(number).copied().flatten();
        let mut lexer = Lexer::new(self.body(), at.ok_or(Malformed("a missing object"))?);
        if lexer.unsigned()? != number {
            return Err(Malformed("an object with another's number"));
        }
        lexer.unsigned()?;
        lexer.word(b"obj")?;
        let value = lexer.value()?;
        self.read.set(self.read.get().saturating_add(value.len()));
        if self.read.get() / MOST_READ > self.data.len() {
            return Err(Malformed("objects within objects"));
        }
        Ok(value)
    }

    /// Where the value of `key` stands in the dictionary at `range`.
    fn entry(&self, range: &Range<usize>, key: &[u8]) -> Result<Option<Range<usize>>, Malformed> {
        let data = self.data.get(..range.end).ok_or(Malformed("an object beyond its end"))?;
        let mut lexer = Lexer::new(data, range.start);
        if lexer.token()?.kind != Kind::DictOpen {
            return Err(Malformed("something else where a dictionary was expected"));
        }
        loop {
            let token = lexer.token()?;
            match token.kind {
                Kind::DictClose => return Ok(None),
                Kind::Name => {
                    let found = lexer.text(&token).get(1..) == Some(key);
                    let value = lexer.value()?;
                    if found {
                        return Ok(Some(value));
                    }
                }
                _ => return Err(Malformed("a dictionary without keys")),
            }
        }
    }

    /// The bytes of the value of `key` in the dictionary at `range`.
    pub(super) fn raw_entry(
        &self,
        range: &Range<usize>,
        key: &[u8],
    ) -> Result<Option<&'a [u8]>, Malformed> {
        Ok(self.entry(range, key)?.and_then(|value| self.data.get(value)))
    }

    /// The number of the object that `key` refers to.
    fn reference(&self, range: &Range<usize>, key: &[u8]) -> Result<Option<usize>, Malformed> {
        let Some(value) = self.entry(range, key)? else { return Ok(None) };
        reference(&mut Lexer::new(self.data, value.start)).map(Some)
    }

    /// Walks the page tree.
    fn read_pages(&self, root: usize) -> Result<Vec<Page>, Malformed> {
        let mut pages = Vec::new();
        let mut visited = 0_usize;
        // The next kids, last first: (object, depth).
        let mut stack = vec![(root, 0_usize)];
        while let Some((number, depth)) = stack.pop() {
            visited += 1;
            if depth > MAX_DEPTH || visited > MAX_PAGES {
                return Err(Malformed("a page tree without an end"));
            }
            let node = self.object(number)?;
            if self.raw_entry(&node, b"Type")? == Some(b"/Page".as_slice()) {
                pages.push(self.page(&node)?);
                continue;
            }
            let kids = self.entry(&node, b"Kids")?.ok_or(Malformed("a page tree without kids"))?;
            let data = self.data.get(..kids.end).unwrap_or_default();
            let mut lexer = Lexer::new(data, kids.start + 1);
            let first = stack.len();
            while lexer.position() + 1 < kids.end {
                stack.push((reference(&mut lexer)?, depth + 1));
                if stack.len() > MAX_PAGES {
                    return Err(Malformed("a page tree without an end"));
                }
            }
            if let Some(kids) = stack.get_mut(first..) {
                kids.reverse();
            }
        }
        if pages.is_empty() { Err(Malformed("no pages")) } else { Ok(pages) }
    }

    fn page(&self, node: &Range<usize>) -> Result<Page, Malformed> {
        let range = self.entry(node, b"MediaBox")?.ok_or(Malformed("a page without a size"))?;
        let data = self.data.get(..range.end).unwrap_or_default();
        let mut lexer = Lexer::new(data, range.start);
        if lexer.token()?.kind != Kind::ArrayOpen {
            return Err(Malformed("a page box that is no array"));
        }
        let mut media_box = [0.0; 4];
        for side in &mut media_box {
            let token = lexer.token()?;
            *side = parse(lexer.text(&token))
                .filter(|value: &f64| value.is_finite())
                .ok_or(Malformed("a page box without numbers"))?;
        }
        Ok(Page { media_box, media_box_at: range })
    }

    /// The names of structure elements and where they stand: `(node00000043)`
    /// under the keys under which Skia writes them.
    pub(super) fn node_names(&self) -> Result<Vec<(Range<usize>, u64)>, Malformed> {
        let mut names = Vec::new();
        for number in 1..self.objects.len() {
            if self.objects.get(number).copied().flatten().is_none() {
                continue;
            }
            let range = self.object(number)?;
            let data = self.data.get(..range.end).unwrap_or_default();
            let mut lexer = Lexer::new(data, range.start);
            let mut under_key = false;
            while lexer.position() < range.end {
                let token = lexer.token()?;
                let text = lexer.text(&token);
                match token.kind {
                    Kind::Name => {
                        under_key = matches!(text, b"/ID" | b"/Headers" | b"/Limits" | b"/Names");
                    }
                    Kind::Literal if under_key => {
                        if let Some(node) = node_number(text) {
                            names.push((token.range, node));
                        }
                    }
                    _ => {}
                }
            }
        }
        Ok(names)
    }
}

/// `12 0 R`.
fn reference(lexer: &mut Lexer<'_>) -> Result<usize, Malformed> {
    let number = lexer.unsigned()?;
    lexer.unsigned()?;
    lexer.word(b"R")?;
    Ok(number)
}

/// The number in `(node00000043)`.
fn node_number(literal: &[u8]) -> Option<u64> {
    let digits = literal.strip_prefix(b"(node")?.strip_suffix(b")")?;
    if digits.iter().all(u8::is_ascii_digit) { parse(digits) } else { None }
}

/// What `startxref` says.
fn table_offset(data: &[u8]) -> Result<usize, Malformed> {
    const MARK: &[u8] = b"startxref";
    let tail = data.len().saturating_sub(64);
    let end = data.get(tail..).unwrap_or_default();
    let at = end
        .windows(MARK.len())
        .rposition(|window| window == MARK)
        .ok_or(Malformed("no end; it was cut off"))?;
    let mut lexer = Lexer::new(data, tail + at + MARK.len());
    let table = lexer.unsigned()?;
    let mut lexer = Lexer::new(data, table);
    lexer.word(b"xref")?;
    Ok(table)
}

/// Reads the one section of the table; the lexer stands at `xref` and ends behind it.
fn read_table(
    lexer: &mut Lexer<'_>,
    length: usize,
    table: usize,
) -> Result<Vec<Option<usize>>, Malformed> {
    lexer.word(b"xref")?;
    if lexer.unsigned()? != 0 {
        return Err(Malformed("a partial table"));
    }
    let count = lexer.unsigned()?;
    // An entry takes twenty bytes: a count that the file cannot hold is a lie.
    if count > length / 20 {
        return Err(Malformed("a table longer than the file"));
    }
    let mut objects = Vec::with_capacity(count);
    for _ in 0..count {
        let offset = lexer.unsigned()?;
        lexer.unsigned()?;
        let token = lexer.token()?;
        objects.push(match lexer.text(&token) {
            b"n" if offset < table => Some(offset),
            b"f" => None,
            _ => return Err(Malformed("a table entry that is neither used nor free")),
        });
    }
    Ok(objects)
}
