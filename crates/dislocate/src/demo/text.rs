//! The words and bars on the screen: what a moment looks like, as lines of text.

use std::time::Duration;

use super::backends::Wish;
use super::flow::{Flow, Told};
use super::layout::{BACKENDS, Layout, PLACES};
use super::load::{Felt, REQUESTS_PER_SECOND};

/// What the screen can show.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Look {
    /// Whether it knows colours.
    pub colours: bool,
    /// What bars are made of.
    pub block: char,
}

/// A moment of the story.
pub struct View {
    /// `2 of 6` or nothing, and what happens.
    pub heading: (String, &'static str),
    /// What one sees.
    pub caption: Vec<&'static str>,
    /// Since the chapter began, and how long it is; no length is until somebody ends it.
    pub time: (Duration, Option<Duration>),
    /// How each backend was told to behave.
    pub wishes: [Wish; BACKENDS],
    /// What the proxy makes of each.
    pub standings: [&'static str; BACKENDS],
    /// The last second.
    pub latest: Flow,
    /// The chapter so far.
    pub chapter: Flow,
}

/// What is said before the story begins.
pub fn introduction(layout: Layout, policy: &str) -> String {
    let zones = PLACES.chunk_by(|one, other| one.zone == other.zone);
    let zones = zones.map(|places| format!("{} {} ms away", places[0].zone, places[0].distance.as_millis()));
    format!(
        "dislocate demo: {BACKENDS} backends in three zones, all inside this process:\n\
         {}. A connection takes\n\
         that long, and so does an answer. Clients ask {REQUESTS_PER_SECOND} times a second, each time\n\
         on a new connection to {}; dislocate (balance = \"{policy}\")\n\
         forwards them to the backends.\n\
         Its metrics: http://{}/metrics\n",
        zones.collect::<Vec<_>>().join(", "),
        layout.listener(),
        layout.admin(),
    )
}

/// A chapter's name and caption, for a screen to which lines are only added.
pub fn opening(view: &View, look: Look) -> String {
    let mut lines = vec![heading(view, look)];
    lines.extend(view.caption.iter().map(|line| format!("  {line}")));
    lines.join("\n") + "\n"
}

/// The whole moment, for a screen that is drawn over. No line is longer than [`WIDTH`].
pub fn frame(view: &View, look: Look) -> Vec<String> {
    let mut lines = vec![heading(view, look) + &progress(view, look)];
    lines.extend(view.caption.iter().map(|line| format!("  {line}")));
    lines.push(String::new());
    lines.extend(table(view, &view.latest, look));
    lines.push(String::new());
    lines.push(format!("  last second   {}", felt(&view.latest.felt, look)));
    lines.push(format!("  this chapter  {}", felt(&view.chapter.felt, look)));
    lines
}

/// The moment in one line.
pub fn line(view: &View) -> String {
    let plain = Look { colours: false, block: '#' };
    let seconds = view.time.0.as_secs_f64().round();
    format!("  {seconds:>3} s  {}   {}\n", zones(&view.latest), felt(&view.latest.felt, plain))
}

/// What a chapter came to, with where the traffic went in its last part.
pub fn closing(view: &View, tail: &Flow, look: Look) -> String {
    let mut lines = table(view, tail, look);
    lines.push(format!("  clients: {}", felt(&view.chapter.felt, look)));
    lines.join("\n") + "\n\n"
}

/// A chapter in two lines, for the scroll above the frame.
pub fn epitaph(view: &View, tail: &Flow, look: Look) -> String {
    let (number, title) = &view.heading;
    let number = number.split(' ').next().unwrap_or_default();
    let title = paint(&format!("{title:<31}"), BOLD, look);
    format!("{number}  {title} {}\n   {}\n", zones(tail), felt(&view.chapter.felt, look))
}

/// What the whole story came to, and how to go on.
pub fn moral(told: &[Told], layout: Layout, is_running: bool) -> String {
    let sum = |of: fn(&Felt) -> u64| told.iter().map(|told| of(&told.whole.felt)).sum::<u64>();
    let (requests, errors) = (grouped(sum(Felt::requests)), grouped(sum(Felt::errors)));
    let mut text = format!("That was the story: {requests} requests through all of it, {errors} of them failed.\n");
    if is_running {
        text += &format!(
            "It all still runs; try it from another terminal, and end it with Ctrl-C:\n\n  \
             curl http://{admin}/metrics        what Prometheus would scrape\n  \
             curl http://{admin}/v1/services    the backends as JSON\n",
            admin = layout.admin(),
        );
    }
    text
}

/// Where to go from here.
pub const GOODBYE: &str = "
To run it in front of your own backends:

  dislocate demo --write-config DIR       leaves the configuration that this was
  dislocate run -c DIR/dislocate.toml     serves as it says
";

/// A number with commas between thousands.
pub fn grouped(number: u64) -> String {
    let digits = number.to_string();
    let mut text = String::new();
    for (at, digit) in digits.chars().enumerate() {
        if at > 0 && (digits.len() - at).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

fn heading(view: &View, look: Look) -> String {
    let (number, title) = &view.heading;
    let text = if number.is_empty() { (*title).to_owned() } else { format!("{number}  {title}") };
    paint(&text, BOLD, look)
}

/// The time that is left, after the heading.
fn progress(view: &View, look: Look) -> String {
    let (gone, Some(length)) = view.time else { return String::new() };
    let done = (gone.as_secs_f64() / length.as_secs_f64()).min(1.0);
    let full = (done * PROGRESS as f64).round() as usize;
    let left = length.saturating_sub(gone).as_secs_f64().ceil();
    let bar = look.block.to_string().repeat(full) + &".".repeat(PROGRESS - full);
    format!("   {} {left} s", paint(&bar, DIM, look))
}

fn table(view: &View, flow: &Flow, look: Look) -> Vec<String> {
    let head = format!("  {:<7} {:>7}  {:<8}  {:>5}  share of the answers", "backend", "takes", "seen as", "per s");
    let mut lines = vec![paint(&head, DIM, look)];
    let zones = flow.zones();
    for (index, place) in PLACES.iter().enumerate() {
        let is_first = index == 0 || PLACES[index - 1].zone != place.zone;
        let zone = zones.iter().find(|(zone, _)| is_first && *zone == place.zone);
        let zone = zone.map_or(String::new(), |(zone, share)| format!("  {zone} {share:.0} %"));
        lines.push(backend(view, index, flow, look) + &zone);
    }
    lines
}

fn backend(view: &View, index: usize, flow: &Flow, look: Look) -> String {
    let (wish, standing, share) = (view.wishes[index], view.standings[index], flow.share(index));
    let takes = match wish.serving {
        true => format!("{} ms", wish.delay.as_millis()),
        false => "refuses".to_owned(),
    };
    let takes_style = match () {
        () if !wish.serving => RED,
        () if wish != Wish::well(index) => YELLOW,
        () => PLAIN,
    };
    let standing_style = if standing == "up" { GREEN } else { YELLOW };
    let rate = flow.served[index] as f64 / flow.span.as_secs_f64().max(0.001);
    let full = (share * BAR as f64 / 100.0).round() as usize;
    let bar = look.block.to_string().repeat(full) + &" ".repeat(BAR - full);
    format!(
        "  {:<7} {}  {}  {rate:>5.0}  {} {share:>3.0} %",
        PLACES[index].name,
        paint(&format!("{takes:>7}"), takes_style, look),
        paint(&format!("{standing:<8}"), standing_style, look),
        paint(&bar, CYAN, look),
    )
}

fn zones(flow: &Flow) -> String {
    let zones = flow.zones().into_iter().map(|(zone, share)| format!("{zone} {share:>3.0} %"));
    zones.collect::<Vec<_>>().join("  ")
}

fn felt(felt: &Felt, look: Look) -> String {
    let ms = |share| felt.answered.percentile_ms(share).map_or("-".to_owned(), |ms| format!("{ms:.1}"));
    let errors = format!("{} failed", grouped(felt.errors()));
    let errors = paint(&errors, if felt.errors() == 0 { GREEN } else { RED }, look);
    format!("{} requests, {errors}, p50 {:>4} ms, p99 {:>5} ms", grouped(felt.requests()), ms(0.5), ms(0.99))
}

fn paint(text: &str, style: &str, look: Look) -> String {
    match look.colours && style != PLAIN {
        true => format!("\x1b[{style}m{text}\x1b[0m"),
        false => text.to_owned(),
    }
}

/// The longest line.
pub const WIDTH: usize = 80;
/// The most lines of a frame.
pub const HEIGHT: usize = 15;
/// Characters of a share of 100 %.
const BAR: usize = 24;
/// Characters of a whole chapter.
const PROGRESS: usize = 20;

/// Styles of ECMA-48 (select graphic rendition).
const PLAIN: &str = "0";
const BOLD: &str = "1";
const DIM: &str = "2";
const RED: &str = "31";
const GREEN: &str = "32";
const YELLOW: &str = "33";
const CYAN: &str = "36";

#[cfg(test)]
mod tests {
    use super::*;
    use crate::demo::story::CHAPTERS;

    const LOOK: Look = Look { colours: false, block: '#' };

    fn flow() -> Flow {
        let served = [120, 60, 12, 6, 2, 0];
        let mut flow = Flow { span: Duration::from_secs(1), served, ..Flow::default() };
        (0..200).for_each(|_| flow.felt.answered.note(Duration::from_millis(2)));
        flow
    }

    fn view(flow: &Flow, caption: Vec<&'static str>, title: &'static str) -> View {
        View {
            heading: ("2 of 6".into(), title),
            caption,
            time: (Duration::from_secs(1), Some(Duration::from_secs(4))),
            wishes: std::array::from_fn(Wish::well),
            standings: ["up"; BACKENDS],
            latest: flow.clone(),
            chapter: flow.clone(),
        }
    }

    #[test]
    fn a_frame_shows_who_answers_how_much() {
        let flow = flow();
        let mut view = view(&flow, Vec::new(), "home-2 dies");
        view.wishes[1].serving = false;
        view.standings[1] = "ejected";
        let lines = frame(&view, LOOK);
        assert!(lines[0].starts_with("2 of 6  home-2 dies") && lines[0].ends_with("3 s"), "{}", lines[0]);
        let backend = lines.iter().find(|line| line.contains("home-2 ") && line.contains('%')).expect("it has a line");
        for part in ["refuses", "ejected", " 60  ", &"#".repeat(7), " 30 %"] {
            assert!(backend.contains(part), "{part:?} is in {backend:?}");
        }
        assert!(lines.last().is_some_and(|line| line.contains("200 requests, 0 failed, p50  2.0 ms")), "{lines:?}");
    }

    #[test]
    fn every_frame_fits_on_the_screen() {
        let flow = Flow { served: [9_999_999, 0, 0, 0, 0, 0], ..flow() };
        for chapter in &CHAPTERS {
            let lines = frame(&view(&flow, (chapter.caption)("least_conn"), chapter.title), LOOK);
            assert!(lines.len() <= HEIGHT, "{} lines", lines.len());
            for line in lines {
                assert!(line.chars().count() <= WIDTH, "{line}");
            }
        }
    }

    #[test]
    fn what_is_said_around_the_story_fits_too() {
        let introduction = introduction(Layout::default(), "source_hash");
        let moral = moral(&[Told { whole: flow(), tail: flow() }], Layout::default(), true);
        assert!(moral.starts_with("That was the story: 200 requests through all of it, 0 of them failed."), "{moral}");
        for line in [&*introduction, &*moral, GOODBYE].into_iter().flat_map(str::lines) {
            assert!(line.chars().count() <= WIDTH, "{line}");
        }
    }

    #[test]
    fn thousands_are_set_apart() {
        for (number, text) in [(0, "0"), (999, "999"), (1_000, "1,000"), (1_234_567, "1,234,567")] {
            assert_eq!(grouped(number), text);
        }
    }
}
