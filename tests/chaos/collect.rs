//! What the queue holds after a run: records, replies, and what should be gone.

use std::collections::BTreeMap;

use redis::{Commands, Connection, cmd};
use serde_json::Value;
use sha2::{Digest, Sha256};

use crate::history::{Record, Reply};
use crate::support::{PREFIX, keys};

/// Every job's record.
pub fn records(redis: &mut Connection) -> BTreeMap<String, Record> {
    let names = keys(redis, "job:*");
    let strip = |key: &String| key[PREFIX.len() + "job:".len()..].to_owned();
    names.iter().map(|key| (strip(key), redis.hgetall(key).unwrap())).collect()
}

/// The replies that are held for these jobs.
pub fn replies(redis: &mut Connection, jobs: &[String]) -> BTreeMap<String, Vec<Reply>> {
    let mut found = BTreeMap::new();
    for job in jobs {
        let held: Vec<Vec<u8>> = redis.lrange(format!("{PREFIX}reply:{job}"), 0, -1).unwrap();
        let held = held.iter().map(|element| reply(redis, job, element));
        found.insert(job.clone(), held.collect());
    }
    found
}

/// One reply, and its PDF where that is stored elsewhere.
pub fn reply(redis: &mut Connection, job: &str, element: &[u8]) -> Reply {
    let at = element.iter().position(|byte| *byte == b'\n').unwrap_or(element.len());
    let line: Value = serde_json::from_slice(&element[..at]).unwrap();
    let text = |field: &str| line[field].as_str().unwrap_or_default();
    let pdf = match element.get(at + 1..) {
        Some(pdf) => Some(pdf.to_vec()),
        None => redis.get(format!("{PREFIX}pdf:{job}")).unwrap(),
    };
    Reply {
        status: text("status").to_owned(),
        attempts: line["attempts"].as_u64().unwrap_or(0).try_into().unwrap(),
        pdf: pdf.map(|pdf| is_of(job, &pdf, text("sha256"))),
    }
}

/// Whether `pdf` is the document of `job`, whose name is its title, with this sum.
fn is_of(job: &str, pdf: &[u8], sha256: &str) -> Result<(), String> {
    let sum: String = Sha256::digest(pdf).iter().map(|byte| format!("{byte:02x}")).collect();
    let title = format!("({job})");
    if sum != sha256 {
        Err(format!("its PDF has the sum {sum}, its reply says {sha256}"))
    } else if !pdf.windows(title.len()).any(|window| window == title.as_bytes()) {
        Err("its PDF is of another document".to_owned())
    } else {
        Ok(())
    }
}

/// What is wrong with a queue in which everything has ended.
pub fn left_behind(redis: &mut Connection) -> Vec<String> {
    let mut wrong = Vec::new();
    for kind in ["in", "in:bulk", "stage:*", "ready:*", "ring:*", "leased", "delayed", "claims:*"] {
        wrong.extend(keys(redis, kind));
    }
    for field in ["jobs", "bytes"] {
        let count: Option<i64> = redis.hget(format!("{PREFIX}state"), field).unwrap();
        if count.unwrap_or(0) != 0 {
            wrong.push(format!("state {field} = {}", count.unwrap_or(0)));
        }
    }
    // Dead letters stay until housekeeping takes them.
    let dead: Vec<String> = redis.zrange(format!("{PREFIX}dead"), 0, -1).unwrap();
    let is_dead = |key: &str| {
        let name = key[PREFIX.len()..].split_once(':').map(|(_, name)| name.to_owned());
        name.is_some_and(|name| dead.contains(&name))
    };
    // Results that were pushed by workers who died before they could settle go by themselves.
    for kind in ["out:*", "reply:*", "pdf:*", "job:*", "doc:*"] {
        for key in keys(redis, kind) {
            let left: i64 = cmd("PTTL").arg(&key).query(redis).unwrap();
            if left == -1 && !is_dead(&key) {
                wrong.push(format!("{key} stays for ever"));
            }
        }
    }
    wrong
}
