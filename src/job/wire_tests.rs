//! The validator: what passes, what is refused, and what the refusal says.

use proptest::prelude::*;

use super::*;
use crate::job::length::Paper;

fn read(element: impl AsRef<[u8]>) -> Result<Job, Box<Rejection>> {
    parse(element.as_ref(), Priority::Interactive, || "made-1".to_owned())
}

fn code(element: impl AsRef<[u8]>) -> &'static str {
    read(element).unwrap_err().problem.code
}

#[test]
fn the_framed_form_is_read_with_lf_and_crlf() {
    for newline in ["\n", "\r\n"] {
        let job = read(format!(
            "{{\"id\":\"r-1\",\"tenant\":\"acme\",\"options\":{{\"paper\":\"80mm\"}}}}{newline}<p>a\nb</p>"
        ))
        .unwrap();
        assert_eq!(job.name.to_string(), "acme/r-1");
        assert_eq!(job.html, "<p>a\nb</p>");
        assert_eq!(job.options.paper, Paper::named("80mm"));
    }
}

#[test]
fn the_json_only_form_is_read_with_and_without_a_last_newline() {
    for end in ["", "\n", "\r\n"] {
        let job = read(format!("{{\"id\":\"r-1\",\"html\":\"<p>x</p>\"}}{end}")).unwrap();
        assert_eq!(job.name.to_string(), "default/r-1");
        assert_eq!(job.html, "<p>x</p>");
    }
}

#[test]
fn defaults_are_those_of_the_contract() {
    let job = read("{}\n<p>x</p>").unwrap();
    assert_eq!(job.name.to_string(), "default/made-1");
    assert_eq!(job.priority, Priority::Interactive);
    assert_eq!(job.max_attempts, 3);
    assert_eq!(job.output, Output::Reply { base64: false });
    assert_eq!(job.reply_ttl, Duration::from_secs(600));
    assert_eq!(job.retain, Duration::from_secs(86_400));
    assert_eq!(job.options.timeout, Duration::from_secs(10));
    assert!(job.options.background);
}

#[test]
fn the_inbox_gives_the_priority_unless_the_header_does() {
    let bulk = |header: &str| {
        parse(format!("{header}\n<p>").as_bytes(), Priority::Bulk, || "x".to_owned())
            .unwrap()
            .priority
    };
    assert_eq!(bulk("{}"), Priority::Bulk);
    assert_eq!(bulk("{\"priority\":\"interactive\"}"), Priority::Interactive);
}

#[test]
fn both_documents_or_none_are_refused() {
    assert_eq!(code("{\"html\":\"<p>\"}\n<p>"), "two_documents");
    assert_eq!(code("{\"id\":\"a\"}"), "no_document");
    assert_eq!(code("{\"id\":\"a\"}\n"), "no_document");
    assert_eq!(code("{\"id\":\"a\"}\n \n\t"), "empty_document");
    assert_eq!(code("{\"html\":\"\"}"), "empty_document");
}

#[test]
fn broken_framing_is_refused_with_a_reason() {
    for element in [
        &b""[..],
        b"\n<p>",
        b"<html>",
        b"\xEF\xBB\xBF{}\n<p>",
        b"\xFF\xFE{\0}\0",
        b"{\n  \"id\": \"a\"\n}\n<p>",
        b"[]\n<p>",
        b"{\"id\":}\n<p>",
        b"{\"id\":\"\xFF\"}\n<p>",
    ] {
        let rejection = read(element).unwrap_err();
        assert_eq!(rejection.problem.code, "malformed_header", "{element:?}");
        assert!(!rejection.problem.remedy.is_empty());
    }
    assert_eq!(code(b"{}\n<p>\xFF</p>"), "invalid_document");
    assert_eq!(code(b"{}\n<p>\0</p>"), "invalid_document");
}

#[test]
fn what_is_too_large_is_refused() {
    let header = format!("{{\"meta\":{{\"a\":\"{}\"}}}}\n<p>", "x".repeat(MAX_HEADER_BYTES));
    assert_eq!(code(header), "header_too_large");
    let json = |bytes| format!("{{\"html\":\"{}\"}}", "x".repeat(bytes));
    assert!(read(json(MAX_JSON_ONLY_BYTES - 100)).is_ok());
    assert_eq!(code(json(MAX_JSON_ONLY_BYTES)), "header_too_large");
    let mut element = b"{}\n".to_vec();
    element.resize(MAX_ELEMENT_BYTES + 1, b'x');
    assert_eq!(code(&element), "element_too_large");
    let mut named = b"{\"id\":\"big\"}\n".to_vec();
    named.resize(MAX_ELEMENT_BYTES + 1, b'x');
    assert_eq!(read(&named).unwrap_err().name.unwrap().to_string(), "default/big");
    element.truncate(MAX_ELEMENT_BYTES);
    assert!(read(&element).is_ok());
}

#[test]
fn a_refusal_names_the_job_where_it_can_be_read() {
    for element in [
        "{\"id\":\"r-1\",\"tenant\":\"acme\",\"nonsense\":1}\n<p>",
        "{\"id\":\"r-1\",\"tenant\":\"acme\",}\n<p>",
        "{\"id\" : \"r-1\", \"tenant\": \"acme\", \"options\": {\n}}\n<p>",
    ] {
        assert_eq!(read(element).unwrap_err().name.unwrap().to_string(), "acme/r-1", "{element}");
    }
    assert_eq!(read("{\"id\":\"a b\"}\n<p>").unwrap_err().name, None);
    assert_eq!(read("{\"id\":7}\n<p>").unwrap_err().name, None);
}

#[test]
fn unknown_fields_are_answered_with_the_nearest_or_our_name() {
    for (header, field, hint) in [
        ("{\"tennant\":\"a\"}", "tennant", "`tenant`"),
        ("{\"options\":{\"papr\":\"A4\"}}", "options.papr", "`paper`"),
        ("{\"options\":{\"format\":\"A4\"}}", "options.format", "called paper"),
        (
            "{\"options\":{\"printBackground\":true}}",
            "options.printBackground",
            "called background",
        ),
        ("{\"options\":{\"marginTop\":1}}", "options.marginTop", "margin.top"),
        ("{\"options\":{\"paperWidth\":1}}", "options.paperWidth", "paper with width"),
        ("{\"options\":{\"pageRanges\":\"1\"}}", "options.pageRanges", "called pages"),
        ("{\"zzzzzzzzzz\":1}", "zzzzzzzzzz", "known here are"),
        (
            "{\"options\":{\"paper\":{\"width\":\"1in\",\"hight\":\"auto\"}}}",
            "options.paper.hight",
            "`height`",
        ),
    ] {
        let problem = read(format!("{header}\n<p>")).unwrap_err().problem;
        assert_eq!(problem.code, "unknown_field", "{header}");
        assert!(problem.message.contains(field), "{}", problem.message);
        assert!(problem.remedy.contains(hint), "{}", problem.remedy);
    }
}

#[test]
fn wrong_values_are_refused_with_field_value_and_remedy() {
    for (header, field) in [
        ("{\"v\":2}", "v"),
        ("{\"id\":\"\"}", "id"),
        ("{\"id\":\"a/b\"}", "id"),
        ("{\"tenant\":\"ü\"}", "tenant"),
        ("{\"priority\":\"high\"}", "priority"),
        ("{\"delay_ms\":-1}", "delay_ms"),
        ("{\"deadline_ms\":0}", "deadline_ms"),
        ("{\"max_attempts\":0}", "max_attempts"),
        ("{\"max_attempts\":\"3\"}", "max_attempts"),
        ("{\"output\":{\"kind\":\"disk\"}}", "output.kind"),
        ("{\"output\":{\"kind\":\"stored\",\"ttl_ms\":1}}", "output.ttl_ms"),
        ("{\"output\":{\"kind\":\"reply\",\"encoding\":\"hex\"}}", "output.encoding"),
        ("{\"meta\":{\"a\":1}}", "meta"),
        ("{\"traceparent\":\"1-2-3\"}", "traceparent"),
        ("{\"options\":{\"paper\":\"A99\"}}", "options.paper"),
        ("{\"options\":{\"paper\":{\"width\":\"1mm\",\"height\":\"auto\"}}}", "options.paper"),
        ("{\"options\":{\"margin\":5}}", "options.margin"),
        ("{\"options\":{\"margin\":{\"top\":\"5\"}}}", "options.margin.top"),
        ("{\"options\":{\"scale\":3}}", "options.scale"),
        ("{\"options\":{\"pages\":\"0\"}}", "options.pages"),
        ("{\"options\":{\"pages\":\"3-1\"}}", "options.pages"),
        ("{\"options\":{\"media\":\"tv\"}}", "options.media"),
        ("{\"options\":{\"landscape\":1}}", "options.landscape"),
        ("{\"options\":{\"info\":{\"date\":\"yesterday\"}}}", "options.info.date"),
        ("{\"options\":{\"timeout_ms\":0}}", "options.timeout_ms"),
    ] {
        let problem = read(format!("{header}\n<p>")).unwrap_err().problem;
        assert_eq!(problem.code, "invalid_field", "{header}: {problem:?}");
        assert!(problem.message.contains(&format!("`{field}`")), "{}", problem.message);
        assert!(!problem.remedy.is_empty());
    }
}

#[test]
fn fields_that_contradict_each_other_are_refused() {
    for header in [
        "{\"reply_to\":\"mail\",\"output\":{\"kind\":\"reply\"}}",
        "{\"options\":{\"paper\":\"80mm\",\"landscape\":true}}",
        "{\"options\":{\"paper\":\"80mm\",\"footer\":\"<p>\"}}",
        "{\"options\":{\"paper\":\"58mm\",\"margin\":\"30mm\"}}",
        "{\"options\":{\"outline\":true}}",
        "{\"delay_ms\":5000,\"deadline_ms\":5000}",
    ] {
        assert_eq!(code(format!("{header}\n<p>")), "conflicting_fields", "{header}");
    }
}

#[test]
fn what_a_later_release_brings_is_refused_not_ignored() {
    for header in [
        "{\"output\":{\"kind\":\"object\",\"key\":\"a.pdf\"}}",
        "{\"options\":{\"strict\":true}}",
        "{\"options\":{\"fit\":\"shrink\"}}",
        "{\"options\":{\"expect\":{\"pages\":1}}}",
    ] {
        assert_eq!(code(format!("{header}\n<p>")), "not_supported_yet", "{header}");
    }
    assert!(
        read("{\"options\":{\"script\":false,\"strict\":false,\"fit\":\"warn\"}}\n<p>").is_ok()
    );
}

#[test]
fn replies_elsewhere_store_the_pdf() {
    let job = read("{\"reply_to\":\"mail\"}\n<p>").unwrap();
    assert_eq!(job.output, Output::Stored { ttl: Duration::from_secs(86_400) });
}

#[test]
fn the_digest_is_of_the_whole_element() {
    let one = read("{\"id\":\"a\"}\n<p>1").unwrap();
    assert_eq!(one.digest, read("{\"id\":\"a\"}\n<p>1").unwrap().digest);
    assert_ne!(one.digest, read("{\"id\":\"a\"}\n<p>2").unwrap().digest);
    assert_ne!(one.digest, read("{\"id\":\"a\",\"priority\":\"bulk\"}\n<p>1").unwrap().digest);
    assert_eq!(one.digest.len(), 64);
}

proptest! {
    #[test]
    fn no_bytes_make_the_validator_fail_in_another_way(element in prop::collection::vec(any::<u8>(), 0..300)) {
        if let Err(rejection) = read(&element) {
            prop_assert!(!rejection.problem.code.is_empty());
            prop_assert!(!rejection.problem.remedy.is_empty());
        }
    }

    #[test]
    fn no_header_makes_the_validator_fail_in_another_way(header in "\\{(\"[a-z_]{1,8}\":(1|\"[a-z]{0,4}\"|\\{\\}|true|null|\\[\\]),?){0,4}\\}") {
        if let Err(rejection) = read(format!("{header}\n<p>")) {
            prop_assert!(!rejection.problem.message.is_empty());
        }
    }
}
