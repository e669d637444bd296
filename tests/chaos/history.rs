//! The judge: what the queue itself has written down of every job, from its
//! admission to its end, and what of that may not be.
//!
//! ```text
//! pushed ─▶ admitted ─▶ (reaped | released | retried | stale)* ─▶ done | dead | expired | cancelled
//! ```
//!
//! Sources: every entry of the event stream, heard while the run went on; the
//! jobs' records as they are afterwards; the replies that are held or were
//! taken. Nobody's memory of what happened counts. Fails to see: an accepted
//! end that leaves neither an entry nor a count in the record.

use std::collections::BTreeMap;
use std::fmt;

/// One entry of the event stream.
#[derive(Debug, Clone)]
pub struct Entry {
    pub event: String,
    pub job: String,
    pub code: String,
}

/// A job's record: the fields of its hash.
pub type Record = BTreeMap<String, String>;

/// A reply, as far as it can be judged.
#[derive(Debug, Clone)]
pub struct Reply {
    pub status: String,
    pub attempts: u32,
    /// For a job that is done: whether there is a PDF with the sum that the reply
    /// names, and whether it is this job's document.
    pub pdf: Option<Result<(), String>>,
}

/// What may not be.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum Violation {
    /// A pushed job that has not ended as the contract says.
    Lost { job: String, why: String },
    /// More than one end of one admission was accepted.
    AcceptedTwice { job: String, why: String },
    /// What was written down of a job contradicts itself.
    Contradiction { job: String, why: String },
    /// Entries were dropped from the stream before they were heard.
    Unheard { after: String },
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Lost { job, why } => write!(f, "{job} is lost: {why}"),
            Self::AcceptedTwice { job, why } => write!(f, "{job} was accepted twice: {why}"),
            Self::Contradiction { job, why } => write!(f, "{job}: {why}"),
            Self::Unheard { after } => write!(f, "events after {after} were trimmed unheard"),
        }
    }
}

/// Ends that are for good.
pub const ENDS: [&str; 4] = ["done", "dead", "expired", "cancelled"];

/// What was heard so far.
#[derive(Debug, Default)]
pub struct History {
    jobs: BTreeMap<String, Life>,
    heard: BTreeMap<String, u64>,
    rejections: BTreeMap<String, u32>,
    violations: Vec<Violation>,
}

#[derive(Debug, Default)]
struct Life {
    admissions: u32,
    /// Of the latest admission, in their order.
    ends: Vec<(String, String)>,
}

impl History {
    /// Takes the next entry of the stream.
    pub fn hear(&mut self, entry: &Entry) {
        *self.heard.entry(entry.event.clone()).or_default() += 1;
        let job = || entry.job.clone();
        let is_end = ENDS.contains(&entry.event.as_str());
        if entry.event == "rejected" {
            *self.rejections.entry(job()).or_default() += 1;
        } else if entry.event == "admitted" || entry.event == "revived" {
            let life = self.jobs.entry(job()).or_default();
            if life.admissions > 0 && life.ends.is_empty() {
                let why = format!("{} while it was alive", entry.event);
                self.violations.push(Violation::Contradiction { job: job(), why });
            }
            life.admissions += 1;
            life.ends.clear();
        } else if is_end {
            let life = self.jobs.entry(job()).or_default();
            if life.admissions == 0 {
                let why = format!("{} without having been admitted", entry.event);
                self.violations.push(Violation::Contradiction { job: job(), why });
            }
            life.ends.push((entry.event.clone(), entry.code.clone()));
            if life.ends.len() == 2 {
                let ends: Vec<_> = life.ends.iter().map(|(event, _)| event.as_str()).collect();
                let why = format!("its ends are {}", ends.join(", "));
                self.violations.push(Violation::AcceptedTwice { job: job(), why });
            }
        }
    }

    /// The stream was trimmed past what was heard.
    pub fn missed(&mut self, after: String) {
        self.violations.push(Violation::Unheard { after });
    }

    /// How often this was heard, of all jobs.
    pub fn count(&self, event: &str) -> u64 {
        self.heard.get(event).copied().unwrap_or(0)
    }

    /// How often this job was rejected before it was one.
    pub fn rejections(&self, job: &str) -> u32 {
        self.rejections.get(job).copied().unwrap_or(0)
    }

    /// Whether the latest admission of this job has ended.
    pub fn has_ended(&self, job: &str) -> bool {
        self.jobs.get(job).is_some_and(|life| !life.ends.is_empty())
    }

    /// Whether all of them have ended, and if not, which have not.
    pub fn waiting<'a>(&self, jobs: impl IntoIterator<Item = &'a String>) -> Vec<&'a String> {
        jobs.into_iter().filter(|job| !self.has_ended(job)).collect()
    }

    /// Jobs that were accepted more than once.
    pub fn accepted_twice(&self) -> usize {
        let twice = |v: &&Violation| matches!(v, Violation::AcceptedTwice { .. });
        self.violations.iter().filter(twice).count()
    }

    /// The verdict on all that was pushed.
    pub fn judge(
        &self,
        pushed: &[String],
        records: &BTreeMap<String, Record>,
        replies: &BTreeMap<String, Vec<Reply>>,
    ) -> Verdict {
        let mut violations = self.violations.clone();
        let mut attempts = 0;
        for job in pushed {
            let record = records.get(job);
            attempts += record.and_then(|r| r.get("attempts")?.parse().ok()).unwrap_or(0);
            let replies = replies.get(job).map_or(&[][..], Vec::as_slice);
            judge_job(job, self.jobs.get(job), record, replies, &mut violations);
        }
        for job in records.keys().filter(|job| !pushed.contains(job)) {
            let why = "it has a record, but nobody pushed it".to_owned();
            violations.push(Violation::Contradiction { job: job.clone(), why });
        }
        violations.sort();
        violations.dedup();
        Verdict {
            pushed: pushed.len(),
            // Attempts that did not count were taken back in the record.
            attempts: attempts + self.count("reaped") + self.count("released"),
            heard: self.heard.clone(),
            codes: self.codes(),
            violations,
        }
    }

    /// Why jobs ended without a PDF, and how many each.
    fn codes(&self) -> BTreeMap<String, u64> {
        let mut codes = BTreeMap::new();
        for (end, code) in self.jobs.values().filter_map(|life| life.ends.last()) {
            if end != "done" {
                *codes.entry(format!("{end}: {code}")).or_default() += 1;
            }
        }
        codes
    }
}

fn judge_job(
    job: &str,
    life: Option<&Life>,
    record: Option<&Record>,
    replies: &[Reply],
    violations: &mut Vec<Violation>,
) {
    let job = || job.to_owned();
    let mut lost = |why: String| violations.push(Violation::Lost { job: job(), why });
    let Some(life) = life.filter(|life| life.admissions > 0) else {
        return lost("it was pushed, but never admitted".to_owned());
    };
    let Some(record) = record else {
        return lost("it has no record".to_owned());
    };
    let state = record.get("state").map_or("", String::as_str);
    if !ENDS.contains(&state) {
        return lost(format!("it is {state:?} still"));
    }
    let Some((end, _)) = life.ends.first() else {
        return lost(format!("its record says {state}, and no event did"));
    };
    if end != state {
        let why = format!("its event says {end}, its record {state}");
        violations.push(Violation::Contradiction { job: job(), why });
    }
    match record.get("accepted").map(String::as_str) {
        Some("1") => {}
        None => {
            let why = "its record does not count accepted ends".to_owned();
            violations.push(Violation::Contradiction { job: job(), why });
        }
        Some(count) => {
            let why = format!("its record counts {count} accepted ends");
            violations.push(Violation::AcceptedTwice { job: job(), why });
        }
    }
    let [reply] = replies else {
        let why = format!("{} replies", replies.len());
        violations.push(if replies.is_empty() {
            Violation::Lost { job: job(), why }
        } else {
            Violation::AcceptedTwice { job: job(), why }
        });
        return;
    };
    if let Some(why) = reply_contradicts(reply, state, record) {
        violations.push(Violation::Contradiction { job: job(), why });
    }
}

/// Why this is not the reply of the end that the record tells of.
fn reply_contradicts(reply: &Reply, state: &str, record: &Record) -> Option<String> {
    if reply.status != state {
        return Some(format!("its reply says {}, its record {state}", reply.status));
    }
    if state != "done" {
        return None;
    }
    let attempts = record.get("attempts").map_or("", String::as_str);
    if reply.attempts.to_string() != attempts {
        return Some(format!("its reply is of attempt {}, not {attempts}", reply.attempts));
    }
    match &reply.pdf {
        None => Some("it is done, without a PDF".to_owned()),
        Some(Err(why)) => Some(why.clone()),
        Some(Ok(())) => None,
    }
}

/// What the judge says.
#[derive(Debug)]
pub struct Verdict {
    pub pushed: usize,
    pub attempts: u64,
    pub heard: BTreeMap<String, u64>,
    /// Why jobs ended without a PDF.
    pub codes: BTreeMap<String, u64>,
    pub violations: Vec<Violation>,
}

impl Verdict {
    pub fn count(&self, event: &str) -> u64 {
        self.heard.get(event).copied().unwrap_or(0)
    }

    pub fn lost(&self) -> usize {
        self.jobs_with(|v| matches!(v, Violation::Lost { .. }))
    }

    pub fn accepted_twice(&self) -> usize {
        self.jobs_with(|v| matches!(v, Violation::AcceptedTwice { .. }))
    }

    fn jobs_with(&self, wanted: impl Fn(&Violation) -> bool) -> usize {
        let job = |v: &Violation| match v {
            Violation::Lost { job, .. }
            | Violation::AcceptedTwice { job, .. }
            | Violation::Contradiction { job, .. } => job.clone(),
            Violation::Unheard { .. } => String::new(),
        };
        let jobs = self.violations.iter().filter(|v| wanted(v)).map(job);
        jobs.collect::<std::collections::BTreeSet<_>>().len()
    }

    /// Fails, naming what is wrong, unless nothing is.
    pub fn assert_sound(&self) {
        let shown: String = self.violations.iter().take(20).map(|v| format!("  {v}\n")).collect();
        assert!(self.violations.is_empty(), "{} violations:\n{shown}", self.violations.len());
    }
}

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let line = |f: &mut fmt::Formatter<'_>, what: &str, count: u64| {
            writeln!(f, "  {what:<24} {count:>6}")
        };
        line(f, "pushed", self.pushed as u64)?;
        line(f, "admitted", self.count("admitted"))?;
        for end in ENDS {
            line(f, end, self.count(end))?;
        }
        for (code, count) in &self.codes {
            line(f, &format!("  {code}"), *count)?;
        }
        line(f, "attempts", self.attempts)?;
        for (event, what) in [
            ("retried", "of these retried"),
            ("released", "released"),
            ("reaped", "reaped"),
            ("stale", "stale writes refused"),
            ("adopted", "elements adopted"),
            ("duplicate", "pushed again"),
        ] {
            line(f, what, self.count(event))?;
        }
        line(f, "lost", self.lost() as u64)?;
        line(f, "accepted twice", self.accepted_twice() as u64)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn heard(events: &[(&str, &str)]) -> History {
        let mut history = History::default();
        for (event, job) in events {
            let entry = Entry { event: (*event).into(), job: (*job).into(), code: String::new() };
            history.hear(&entry);
        }
        history
    }

    fn record(state: &str, accepted: &str) -> Record {
        let fields = [("state", state), ("accepted", accepted), ("attempts", "1")];
        fields.map(|(name, value)| (name.to_owned(), value.to_owned())).into()
    }

    fn reply(status: &str) -> Reply {
        Reply { status: status.to_owned(), attempts: 1, pdf: Some(Ok(())) }
    }

    /// The verdict on the one job `t/a`.
    fn verdict(events: &[(&str, &str)], record: Option<Record>, replies: Vec<Reply>) -> Verdict {
        let job = "t/a".to_owned();
        let records = record.map(|record| (job.clone(), record)).into_iter().collect();
        heard(events).judge(std::slice::from_ref(&job), &records, &[(job.clone(), replies)].into())
    }

    const FINE: [(&str, &str); 2] = [("admitted", "t/a"), ("done", "t/a")];

    #[test]
    fn a_job_that_was_admitted_and_done_once_is_fine() {
        let events = [("admitted", "t/a"), ("reaped", "t/a"), ("released", "t/a"), ("done", "t/a")];
        let verdict = verdict(&events, Some(record("done", "1")), vec![reply("done")]);
        assert_eq!(verdict.violations, []);
        assert_eq!((verdict.attempts, verdict.count("done")), (3, 1));
    }

    #[test]
    fn a_job_is_lost_without_admission_record_end_or_reply() {
        let done = || Some(record("done", "1"));
        for (case, verdict) in [
            ("never admitted", verdict(&[], done(), vec![reply("done")])),
            ("no record", verdict(&FINE, None, vec![reply("done")])),
            ("not ended", verdict(&FINE[..1], Some(record("leased", "0")), vec![])),
            ("no event of its end", verdict(&FINE[..1], done(), vec![reply("done")])),
            ("no reply", verdict(&FINE, done(), vec![])),
        ] {
            assert_eq!((verdict.lost(), verdict.accepted_twice()), (1, 0), "{case}");
        }
    }

    #[test]
    fn a_second_accepted_end_is_found_in_events_record_or_replies() {
        let twice = [("admitted", "t/a"), ("done", "t/a"), ("dead", "t/a")];
        for (case, verdict) in [
            ("events", verdict(&twice, Some(record("done", "1")), vec![reply("done")])),
            ("record", verdict(&FINE, Some(record("done", "2")), vec![reply("done")])),
            ("replies", verdict(&FINE, Some(record("done", "1")), vec![reply("done"); 2])),
        ] {
            assert_eq!((verdict.lost(), verdict.accepted_twice()), (0, 1), "{case}");
        }
    }

    #[test]
    fn an_end_of_a_new_admission_is_not_a_second_one() {
        let again = [FINE[0], FINE[1], FINE[0], FINE[1]];
        let verdict = verdict(&again, Some(record("done", "1")), vec![reply("done")]);
        assert_eq!(verdict.violations, []);
    }

    #[test]
    fn a_reply_that_is_not_of_the_accepted_end_is_a_contradiction() {
        let mut uncounted = record("done", "1");
        uncounted.remove("accepted");
        let done = || Some(record("done", "1"));
        let of_attempt_2 = Reply { attempts: 2, ..reply("done") };
        let wrong_pdf = Reply { pdf: Some(Err("another PDF".to_owned())), ..reply("done") };
        let no_pdf = Reply { pdf: None, ..reply("done") };
        for (case, verdict) in [
            ("status of the reply", verdict(&FINE, done(), vec![reply("dead")])),
            (
                "status of the record",
                verdict(&FINE, Some(record("dead", "1")), vec![reply("dead")]),
            ),
            ("attempt", verdict(&FINE, done(), vec![of_attempt_2])),
            ("another PDF", verdict(&FINE, done(), vec![wrong_pdf])),
            ("no PDF", verdict(&FINE, done(), vec![no_pdf])),
            ("no count", verdict(&FINE, Some(uncounted), vec![reply("done")])),
            ("ended before", verdict(&[FINE[1], FINE[0], FINE[1]], done(), vec![reply("done")])),
            ("admitted alive", verdict(&[FINE[0], FINE[0], FINE[1]], done(), vec![reply("done")])),
        ] {
            assert_eq!(verdict.violations.len(), 1, "{case}: {:?}", verdict.violations);
            assert_eq!((verdict.lost(), verdict.accepted_twice()), (0, 0), "{case}");
        }
    }

    #[test]
    fn what_nobody_pushed_and_what_was_not_heard_is_said() {
        let mut history = heard(&FINE);
        history.missed("1-1".to_owned());
        let records = [("t/a".to_owned(), record("done", "1"))].into();
        let verdict = history.judge(&[], &records, &BTreeMap::new());
        assert_eq!(verdict.violations.len(), 2, "{:?}", verdict.violations);
    }
}
