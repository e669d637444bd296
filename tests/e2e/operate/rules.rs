//! What operators decide about tenants: what their jobs share, whether scripts run.

use serde_json::{Value, json};

use super::Operator;
use crate::command_line::{run, stderr};
use crate::json::assert_schema;
use crate::support::{Worker, take, text_of, tillroll};

const SCRIPTED: &str =
    "<!doctype html><p id=o>as it came</p><script>o.textContent = 'drawn by a script'</script>";

impl Operator {
    /// Pushes a document with scripts, and waits for its reply.
    fn scripted(&mut self, tenant: &str, id: &str) -> (Value, Vec<u8>) {
        let header = json!({"id": id, "tenant": tenant, "options": {"script": true}});
        self.push(format!("{header}\n{SCRIPTED}"));
        take(&mut self.redis, &format!("{tenant}/{id}"), 60).expect("a reply")
    }
}

#[test]
fn a_tenants_scripts_and_isolation_are_decided_while_a_worker_runs() {
    let mut operator = Operator::new();
    let _worker = Worker::start(&operator.url, &[]);
    let (reply, pdf) = operator.scripted("acme", "one");
    assert_eq!(reply["status"], "done", "{reply}");
    assert!(text_of(&pdf).contains("drawn by a script"));
    // `renderer.scripts` is on: that is leave to ask, and this job does not ask.
    operator.push(format!("{{\"id\":\"mute\",\"tenant\":\"acme\"}}\n{SCRIPTED}"));
    let (_, pdf) = take(&mut operator.redis, "acme/mute", 60).unwrap();
    assert!(text_of(&pdf).contains("as it came"));

    let set = ["tenant", "set", "acme", "--scripts", "off", "--isolation", "browser"];
    let set = operator.json(&set);
    assert_eq!((&set["scripts"], &set["isolation"]), (&false.into(), &"browser".into()));
    operator.text(&["tenant", "show", "acme"], &["isolation  browser", "scripts    off"]);
    let (reply, _) = operator.scripted("acme", "two");
    assert_eq!(reply["status"], "dead", "{reply}");
    assert_eq!(reply["error"]["code"], "scripts_refused", "{reply}");
    assert_eq!(reply["attempts"], 1, "it can never succeed: {reply}");
    assert_eq!(operator.scripted("cafe", "two").0["status"], "done");

    let reset = ["tenant", "set", "acme", "--scripts", "default", "--isolation", "default"];
    let reset = operator.json(&reset);
    assert!(reset["scripts"].is_null() && reset["isolation"].is_null(), "{reset}");
    assert_eq!(operator.scripted("acme", "three").0["status"], "done");
    assert_schema("tenant show", &[set, reset]);
}

#[test]
fn render_runs_scripts_where_it_is_told_to() {
    let dir = tempfile::tempdir().unwrap();
    let (html, pdf) = (dir.path().join("a.html"), dir.path().join("a.pdf"));
    std::fs::write(&html, SCRIPTED).unwrap();
    let rendered = |flags: &[&str]| {
        let output = run(tillroll().arg("render").arg(&html).args(flags));
        assert!(output.status.success(), "{}", stderr(&output));
        text_of(&std::fs::read(&pdf).unwrap())
    };
    assert!(rendered(&[]).contains("as it came"));
    let wait = r#"{"wait_for":{"expression":"o.textContent.length > 10"}}"#;
    assert!(rendered(&["--script", "--options", wait]).contains("drawn by a script"));
    let never = r#"{"script":true,"wait_for":{"selector":"b"}}"#;
    let output = run(tillroll().arg("render").arg(&html).args(["--options", never]));
    assert_eq!(output.status.code(), Some(65), "{}", stderr(&output));
}
