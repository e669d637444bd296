//! A new context for each job over the bare pipe, as one would write it first: created,
//! used once, disposed of; several at once.

use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::documents::Document;
use crate::floor::{at_once, print_params};
use crate::pipe::{Answer, Pipe, Switches, message};

/// What is done next for one job.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Step {
    Context,
    Target,
    Attach,
    Document,
    Print,
    Dispose,
}

struct Slot {
    step: Step,
    context: Value,
    target: Value,
    session: String,
}

/// See the module's documentation.
pub(crate) struct Naive {
    pipe: Pipe,
    slots: Vec<Slot>,
    /// What targets are made with, beside their address and context.
    target: Value,
    html: String,
    print: Value,
    sent: u64,
}

impl Naive {
    /// `target` is what `Target.createTarget` is given beside address and context.
    pub(crate) fn new(document: &Document, switches: Switches, target: Value) -> Self {
        let slot = || Slot {
            step: Step::Context,
            context: Value::Null,
            target: Value::Null,
            session: String::new(),
        };
        Self {
            pipe: Pipe::launch_with(switches),
            slots: (0..at_once()).map(|_| slot()).collect(),
            target,
            html: document.html.clone(),
            print: print_params(document),
            sent: 1_000_000,
        }
    }

    pub(crate) fn run(&mut self, jobs: usize) -> Duration {
        let began = Instant::now();
        let (mut begun, mut ended) = (0, 0);
        for slot in 0..self.slots.len().min(jobs) {
            self.send(slot, Step::Context);
            begun += 1;
        }
        while ended < jobs {
            let answer = self.pipe.answer();
            let slot = usize::try_from(answer.id).unwrap() % self.slots.len();
            if let Some(next) = self.next(slot, &answer) {
                self.send(slot, next);
                continue;
            }
            ended += 1;
            if begun < jobs {
                self.send(slot, Step::Context);
                begun += 1;
            }
        }
        began.elapsed()
    }

    fn next(&mut self, slot: usize, answer: &Answer) -> Option<Step> {
        let at = &mut self.slots[slot];
        Some(match at.step {
            Step::Context => {
                at.context = self.pipe.result(answer)["browserContextId"].take();
                Step::Target
            }
            Step::Target => {
                at.target = self.pipe.result(answer)["targetId"].take();
                Step::Attach
            }
            Step::Attach => {
                let result = self.pipe.result(answer);
                result["sessionId"].as_str().unwrap().clone_into(&mut at.session);
                Step::Document
            }
            Step::Document => Step::Print,
            Step::Print => {
                assert!(
                    self.pipe.text(answer).starts_with(b"{\"data\":\"JVBERi"),
                    "this is no PDF"
                );
                Step::Dispose
            }
            Step::Dispose => return None,
        })
    }

    fn send(&mut self, slot: usize, step: Step) {
        let slots = self.slots.len() as u64;
        self.sent = (self.sent / slots + 1) * slots;
        let id = self.sent + slot as u64;
        let at = &mut self.slots[slot];
        at.step = step;
        let session = Some(at.session.as_str());
        let text = match step {
            Step::Context => message(None, "Target.createBrowserContext", &json!({})),
            Step::Target => {
                let mut params = self.target.clone();
                params["browserContextId"] = at.context.clone();
                message(None, "Target.createTarget", &params)
            }
            Step::Attach => {
                let params = json!({"targetId": at.target, "flatten": true});
                message(None, "Target.attachToTarget", &params)
            }
            Step::Document => {
                let params = json!({"frameId": at.target, "html": self.html});
                message(session, "Page.setDocumentContent", &params)
            }
            Step::Print => message(session, "Page.printToPDF", &self.print),
            Step::Dispose => {
                let params = json!({"browserContextId": at.context});
                message(None, "Target.disposeBrowserContext", &params)
            }
        };
        self.pipe.send(id, &[&text]);
    }
}
