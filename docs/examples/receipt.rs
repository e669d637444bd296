//! A receipt through Tillroll with the `redis` crate.

use redis::Commands;

const P: &str = "tillroll:{receipts}:";
const WAIT: f64 = 30.0; // seconds
const HTML: &str = "<meta charset=utf-8><h1>Receipt</h1><p>2 × coffee <b>€ 7.00</b></p>";

/// Renders one receipt and returns its PDF. The id lets you wait for the reply,
/// and push again safely.
pub fn render(url: &str, tenant: &str, id: &str) -> Result<Vec<u8>, Box<dyn std::error::Error>> {
    // A blocking command holds its connection: this one does nothing else. (An
    // async connection has a response timeout of its own, 500 ms unless you set it.)
    let mut redis = redis::Client::open(url)?.get_connection()?;
    let job = serde_json::json!({"id": id, "tenant": tenant, "options": {"paper": "80mm"}});
    let _: i64 = redis.lpush(format!("{P}in"), format!("{job}\n{HTML}"))?;

    let taken: Option<(String, Vec<u8>)> = redis.blpop(format!("{P}reply:{tenant}/{id}"), WAIT)?;
    let (_, element) = taken.ok_or("no reply in time; is a worker running?")?;
    let end = element.iter().position(|byte| *byte == b'\n').unwrap_or(element.len());
    let reply: serde_json::Value = serde_json::from_slice(&element[..end])?;
    if reply["status"] != "done" {
        return Err(reply.to_string().into());
    }
    Ok(element[end + 1..].to_vec())
}
