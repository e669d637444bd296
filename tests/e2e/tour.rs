//! One receipt's way, with plain commands.

use std::process::Command;

use redis::Commands;

use crate::redis_server::RedisServer;
use crate::support::{PREFIX, Worker, assert_sound, connect, element, receipt, take, text_of};

/// `redis-cli` as a user would type it; `-x` reads the last argument from stdin.
fn redis_cli(url: &str, arguments: &[&str], stdin: Option<&[u8]>) -> Vec<u8> {
    use std::io::Write;
    use std::process::Stdio;
    let mut child = Command::new("redis-cli")
        .args(["-u", url, "--raw"])
        .args(arguments)
        .stdin(if stdin.is_some() { Stdio::piped() } else { Stdio::null() })
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    if let Some(bytes) = stdin {
        child.stdin.take().unwrap().write_all(bytes).unwrap();
    }
    let output = child.wait_with_output().unwrap();
    assert!(output.status.success());
    output.stdout
}

#[test]
fn redis_cli_alone_gets_a_pdf_from_either_header_form() {
    let server = RedisServer::volatile();
    let url = server.url();
    let _worker = Worker::start(&url, &[]);
    let inbox = format!("{PREFIX}in");

    let framed = element("plotpro", "r-1", "Framed form");
    redis_cli(&url, &["-x", "LPUSH", &inbox], Some(&framed));
    let json = serde_json::json!({"id": "r-2", "tenant": "plotpro", "html": receipt("JSON form")});
    redis_cli(&url, &["LPUSH", &inbox, &json.to_string()], None);

    for (id, text) in [("r-1", "Framed form"), ("r-2", "JSON form")] {
        let key = format!("{PREFIX}reply:plotpro/{id}");
        let printed = redis_cli(&url, &["BLPOP", &key, "30"], None);
        // The key, the reply's line, then the PDF and redis-cli's own newline.
        let rest = printed.strip_prefix(format!("{key}\n").as_bytes()).unwrap();
        let line = rest.iter().position(|byte| *byte == b'\n').unwrap();
        let reply: serde_json::Value = serde_json::from_slice(&rest[..line]).unwrap();
        assert_eq!(reply["status"], "done");
        let pdf = &rest[line + 1..rest.len() - 1];
        assert_eq!(reply["bytes"], pdf.len());
        assert_sound(pdf);
        assert!(text_of(pdf).contains(text));
    }
}

#[test]
fn two_tenants_with_the_same_id_get_each_their_own() {
    let server = RedisServer::volatile();
    let _worker = Worker::start(&server.url(), &[]);
    let mut redis = connect(&server.url());
    for tenant in ["north", "south"] {
        let _: i64 = redis
            .lpush(format!("{PREFIX}in"), element(tenant, "r-1", &format!("For {tenant}")))
            .unwrap();
    }
    for tenant in ["north", "south"] {
        let (reply, pdf) = take(&mut redis, &format!("{tenant}/r-1"), 30).unwrap();
        assert_eq!(reply["tenant"], tenant);
        assert!(text_of(&pdf).contains(&format!("For {tenant}")));
    }
}

#[test]
fn a_bad_element_is_answered_and_costs_nobody_else() {
    let server = RedisServer::volatile();
    let _worker = Worker::start(&server.url(), &[]);
    let mut redis = connect(&server.url());
    let inbox = format!("{PREFIX}in");
    let bad: [(&str, &str, &str); 4] = [
        ("bad-1", "{\"id\":\"bad-1\",\"tenant\":\"t\",\"papr\":\"A4\"}\n<p>x", "unknown_field"),
        ("bad-2", "{\"id\":\"bad-2\",\"tenant\":\"t\",\"html\":\"<p>x\"}\n<p>x", "two_documents"),
        ("bad-3", "{\"id\":\"bad-3\",\"tenant\":\"t\"}", "no_document"),
        ("bad-4", "{\"id\":\"bad-4\",\"tenant\":\"t\",}\n<p>x", "malformed_header"),
    ];
    for (id, element_text, _) in bad {
        let _: i64 = redis.lpush(&inbox, element_text).unwrap();
        let _: i64 = redis.lpush(&inbox, element("t", &format!("good-{id}"), "Good")).unwrap();
    }
    let _: i64 = redis.lpush(&inbox, "\u{feff}nothing that anybody could read").unwrap();
    for (id, _, code) in bad {
        let (reply, body) = take(&mut redis, &format!("t/{id}"), 30).unwrap();
        assert_eq!(reply["status"], "rejected", "{reply}");
        assert_eq!(reply["error"]["code"], code, "{reply}");
        assert!(!reply["error"]["remedy"].as_str().unwrap().is_empty());
        assert!(body.is_empty());
        let (reply, _) = take(&mut redis, &format!("t/good-{id}"), 30).unwrap();
        assert_eq!(reply["status"], "done");
    }
    let unreadable: Option<(String, String)> =
        redis.blpop(format!("{PREFIX}malformed"), 30.0).unwrap();
    assert!(unreadable.unwrap().1.contains("malformed_header"));
}
