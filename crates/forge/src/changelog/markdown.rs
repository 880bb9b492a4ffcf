//! Markdown to blocks, by pulldown-cmark.

use pulldown_cmark::{Event, Options, Parser, Tag, TagEnd};

use super::block::Block;
use super::inline;

/// The blocks of a Markdown document.
pub(super) fn blocks(text: &str) -> Vec<Block> {
    let mut reader = Reader::default();
    for event in Parser::new_ext(text, Options::ENABLE_STRIKETHROUGH) {
        reader.take(event);
    }
    reader.flush();
    reader.out
}

#[derive(Default)]
struct Reader {
    out: Vec<Block>,
    buffer: String,
    /// Lists that are open.
    lists: usize,
    /// The open item has not shown its first paragraph yet.
    item_start: bool,
    heading: Option<usize>,
    code: bool,
    /// Open images: their text is not shown.
    images: usize,
    /// Targets of open links, and where their text starts.
    links: Vec<(String, usize)>,
}

impl Reader {
    fn take(&mut self, event: Event<'_>) {
        match event {
            Event::Start(tag) => self.open(tag),
            Event::End(tag) => self.close(tag),
            Event::Text(text) if self.images == 0 => self.buffer.push_str(&text),
            Event::Code(text) => {
                self.buffer.push('`');
                self.buffer.push_str(&text);
                self.buffer.push('`');
            }
            Event::SoftBreak | Event::HardBreak => self.buffer.push(' '),
            _ => {}
        }
    }

    fn open(&mut self, tag: Tag<'_>) {
        match tag {
            Tag::Heading { level, .. } => {
                self.flush();
                self.heading = Some(level as usize);
            }
            Tag::Paragraph => self.flush(),
            Tag::CodeBlock(_) => {
                self.flush();
                self.code = true;
            }
            Tag::List(_) => {
                self.flush();
                self.lists += 1;
            }
            Tag::Item => {
                self.flush();
                self.item_start = true;
            }
            Tag::Strong => self.buffer.push_str("**"),
            Tag::Link { dest_url, .. } => {
                self.links.push((dest_url.to_string(), self.buffer.len()));
            }
            Tag::Image { .. } => self.images += 1,
            _ => {}
        }
    }

    fn close(&mut self, tag: TagEnd) {
        match tag {
            TagEnd::Heading(_) | TagEnd::Paragraph | TagEnd::Item | TagEnd::CodeBlock => {
                self.flush();
                self.heading = None;
                self.code = false;
                if tag == TagEnd::Item {
                    self.item_start = false;
                }
            }
            TagEnd::List(_) => {
                self.flush();
                self.lists = self.lists.saturating_sub(1);
            }
            TagEnd::Strong => self.buffer.push_str("**"),
            TagEnd::Link => {
                if let Some((target, start)) = self.links.pop() {
                    let text = self.buffer.split_off(start.min(self.buffer.len()));
                    self.buffer.push_str(&inline::link(&text, &target));
                }
            }
            TagEnd::Image => self.images = self.images.saturating_sub(1),
            TagEnd::TableCell => self.buffer.push(' '),
            _ => {}
        }
    }

    fn flush(&mut self) {
        let text = std::mem::take(&mut self.buffer);
        self.links.clear();
        let depth = self.lists;
        if self.code {
            let text = text.trim_end_matches('\n').to_owned();
            self.out.push(Block::Code { depth, text });
            return;
        }
        let text = inline::squeeze(&text);
        if text.is_empty() {
            return;
        }
        self.out.push(if let Some(level) = self.heading {
            Block::Heading { level, text }
        } else if self.item_start && depth > 0 {
            self.item_start = false;
            Block::Item {
                depth: depth - 1,
                text,
            }
        } else {
            Block::Text { depth, text }
        });
    }
}
