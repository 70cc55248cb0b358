//! The terminal: drawn over in place where that works, otherwise only added to.

use std::io::{self, IsTerminal, Write};
use std::time::Duration;

use rustix::termios::tcgetwinsize;

use super::flow::Flow;
use super::text::{self, HEIGHT, Look, View, WIDTH};

/// Standard output.
pub struct Screen {
    /// Whether frames are drawn over each other.
    is_live: bool,
    look: Look,
    /// Lines of the frame that stands at the bottom.
    drawn: usize,
    /// The second of the chapter that was told last, where lines are added.
    told_second: Option<u64>,
}

impl Screen {
    /// A screen; a `plain` one uses nothing that only terminals have.
    pub fn new(plain: bool) -> Self {
        let is_terminal = io::stdout().is_terminal() && !plain;
        let dumb = std::env::var_os("TERM").is_none_or(|term| term == "dumb");
        let is_live = is_terminal && !dumb && fits();
        let colours = is_live && std::env::var_os("NO_COLOR").is_none();
        let block = if is_live && is_utf8() { '\u{2588}' } else { '#' };
        Self { is_live, look: Look { colours, block }, drawn: 0, told_second: None }
    }

    /// Whether somebody watches who can end it by hand.
    pub fn is_live(&self) -> bool {
        self.is_live
    }

    /// Adds text for good.
    pub fn say(&mut self, text: &str) -> io::Result<()> {
        let erase = self.erase();
        write(&(erase + text))
    }

    /// Begins a chapter.
    pub fn open(&mut self, view: &View) -> io::Result<()> {
        self.told_second = None;
        match self.is_live {
            true => self.show(view),
            false => self.say(&text::opening(view, self.look)),
        }
    }

    /// Shows a moment: each of them where they are drawn over, one a second where lines are added.
    pub fn show(&mut self, view: &View) -> io::Result<()> {
        if self.is_live {
            return self.draw(view);
        }
        let second = (view.time.0 + HALF_TICK).as_secs();
        if second == 0 || self.told_second == Some(second) {
            return Ok(());
        }
        self.told_second = Some(second);
        self.say(&text::line(view))
    }

    /// Ends a chapter with what it came to.
    pub fn close(&mut self, view: &View, tail: &Flow) -> io::Result<()> {
        let text = match self.is_live {
            true => text::epitaph(view, tail, self.look),
            false => text::closing(view, tail, self.look),
        };
        self.say(&text)
    }

    fn draw(&mut self, view: &View) -> io::Result<()> {
        // A window that became too small would break the lines and spoil the count of them.
        let lines = if fits() { text::frame(view, self.look) } else { vec!["(this window is too small)".to_owned()] };
        let text = self.erase() + HIDE_CURSOR + "\n" + &lines.join("\n") + "\n";
        self.drawn = lines.len() + 1;
        write(&text)
    }

    /// What takes the frame away.
    fn erase(&mut self) -> String {
        match std::mem::take(&mut self.drawn) {
            0 => String::new(),
            lines => format!("\x1b[{lines}A\r\x1b[J{SHOW_CURSOR}"),
        }
    }
}

impl Drop for Screen {
    fn drop(&mut self) {
        if self.is_live {
            // A terminal that is gone needs no cursor.
            let _gone = write(SHOW_CURSOR);
        }
    }
}

fn write(text: &str) -> io::Result<()> {
    let mut out = io::stdout().lock();
    out.write_all(text.as_bytes())?;
    out.flush()
}

/// Whether a frame and the line above it have room.
fn fits() -> bool {
    tcgetwinsize(io::stdout()).is_ok_and(|size| {
        // Zero is a terminal that does not know.
        usize::from(size.ws_col) >= WIDTH && usize::from(size.ws_row) > HEIGHT + 1
    })
}

/// Whether the terminal's encoding has block characters: the first of these that is set decides (locale(7)).
fn is_utf8() -> bool {
    let mut set = ["LC_ALL", "LC_CTYPE", "LANG"].into_iter().filter_map(|name| std::env::var(name).ok());
    let locale = set.find(|value| !value.is_empty()).unwrap_or_default().to_lowercase();
    locale.ends_with("utf-8") || locale.ends_with("utf8")
}

/// For rounding to the nearest second at four looks a second.
const HALF_TICK: Duration = Duration::from_millis(125);
/// DEC private mode 25.
const HIDE_CURSOR: &str = "\x1b[?25l";
const SHOW_CURSOR: &str = "\x1b[?25h";
