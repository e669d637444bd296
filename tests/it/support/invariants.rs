//! What must be true of a queue: after every step, and after everything ended.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use tillroll::queue::BROKEN_AFTER;

use super::Rig;
use super::rig::ask;

const LIVING: [&str; 3] = ["ready", "leased", "delayed"];

impl Rig {
    /// True between any two transitions; says what is not.
    pub(crate) async fn inconsistencies(&self) -> Vec<String> {
        let seen = Seen::look(self).await;
        let mut wrong = Vec::new();
        let mut check = |fine: bool, what: String| {
            if !fine {
                wrong.push(what);
            }
        };
        let (mut living, mut bytes, mut dead_bytes) = (0, 0, 0);
        let mut uses = BTreeMap::<String, (i64, i64, i64)>::new();
        for (name, record) in &seen.records {
            let state = record["state"].as_str();
            let alive = LIVING.contains(&state);
            if alive {
                living += 1;
                bytes += record["bytes"].parse::<i64>().unwrap();
            }
            let kept = alive || state == "dead";
            check(kept != seen.expiring.contains(name), format!("{name} is {state}: TTL?"));
            let ends = i64::from(!alive);
            let accepted = record.get("accepted").map_or(0, |n| n.parse().unwrap());
            check(accepted == ends, format!("{name} is {state}, {accepted} ends were accepted"));
            let tenant = name.split('/').next().unwrap().to_owned();
            let used = uses.entry(tenant).or_default();
            if alive {
                used.0 += 1;
                used.1 += record["bytes"].parse::<i64>().unwrap();
            } else if state == "dead" {
                dead_bytes += record["bytes"].parse::<i64>().unwrap();
            }
            used.2 += i64::from(state == "leased");
            let lost =
                state == "dead" && record.get("code").is_some_and(|code| code == "body_lost");
            check(
                lost || seen.documents.contains(name) == (alive || state == "dead"),
                format!("{name} is {state}: document?"),
            );
            // The name of a job that was cancelled or expired may stay behind in a list.
            let queued = seen.ready.iter().any(|(_, _, ready)| ready == name);
            check(queued || state != "ready", format!("{name} is ready, and in no list"));
            let due = seen.deadlines.contains(name);
            check(!due || alive, format!("{name} is {state}, and has a deadline"));
            check(
                seen.leased.contains(name) == (state == "leased"),
                format!("{name} is {state}: lease?"),
            );
            check(
                seen.delayed.contains(name) == (state == "delayed"),
                format!("{name} is {state}: delayed?"),
            );
            check(
                seen.dead.contains(name) == (state == "dead"),
                format!("{name} is {state}: dead letter?"),
            );
            let token = record.get("token");
            check(
                token.is_some() == (state == "leased"),
                format!("{name} is {state}: token {token:?}"),
            );
            if let Some(token) = token {
                let claimed = seen.claims.get(&(record["worker"].clone(), token.clone()));
                check(claimed == Some(name), format!("{name}: its token claims {claimed:?}"));
            }
        }
        let leases = seen.records.values().filter(|record| record["state"] == "leased").count();
        check(
            seen.claims.len() == leases,
            format!("{} claims, {leases} leases", seen.claims.len()),
        );
        let listed = seen.ready.iter().map(|(_, _, name)| name);
        let listed = listed.filter(|name| seen.records.contains_key(*name));
        let listed = listed
            .chain(&seen.deadlines)
            .chain(&seen.leased)
            .chain(&seen.delayed)
            .chain(&seen.documents);
        for name in listed {
            check(seen.records.contains_key(name), format!("{name} has no record"));
        }
        let waiting = seen.ready.iter().map(|(p, t, _)| (p.clone(), t.clone()));
        let waiting: BTreeSet<_> = waiting.filter(|(_, t)| seen.may_start(t)).collect();
        check(seen.ring == waiting, format!("ring {:?}, ready {waiting:?}", seen.ring));
        check(seen.jobs == living, format!("{} jobs counted, {living} alive", seen.jobs));
        check(seen.bytes == bytes, format!("{} bytes counted, {bytes} there", seen.bytes));
        check(seen.bell <= 1, format!("the bell has {} tokens", seen.bell));
        check(
            seen.dead_bytes == dead_bytes,
            format!("{} bytes of dead letters counted, {dead_bytes} there", seen.dead_bytes),
        );
        let held: i64 = seen.held.values().sum();
        check(seen.held_bytes == held, format!("{} bytes held, {held} listed", seen.held_bytes));
        uses.retain(|_, used| *used != (0, 0, 0));
        check(seen.uses == uses, format!("tenants use {:?}, counted {:?}", uses, seen.uses));
        check(
            seen.assets == seen.asset_contents,
            format!("assets {:?}, contents {:?}", seen.assets, seen.asset_contents),
        );
        let versions = seen.settings.iter().filter(|(_, set)| set.contains_key("assets"));
        let versions: BTreeSet<_> = versions.map(|(tenant, _)| tenant).collect();
        check(
            versions == seen.assets.keys().collect(),
            format!("versions of {versions:?}, assets of {:?}", seen.assets.keys()),
        );
        for key in seen.lasting_results {
            check(false, format!("{key} stays for ever"));
        }
        wrong
    }

    /// See [`inconsistencies`](Self::inconsistencies).
    pub(crate) async fn assert_consistent(&self) {
        assert_eq!(self.inconsistencies().await, Vec::<String>::new());
    }

    /// Everything has ended: nothing is left but what somebody may still fetch.
    pub(crate) async fn assert_at_rest(&self) {
        self.assert_consistent().await;
        let seen = Seen::look(self).await;
        assert_eq!((seen.jobs, seen.bytes), (0, 0));
        assert_eq!(seen.left_over, Vec::<String>::new());
    }
}

/// The whole queue, as it is.
#[derive(Default)]
struct Seen {
    records: BTreeMap<String, HashMap<String, String>>,
    expiring: BTreeSet<String>,
    documents: BTreeSet<String>,
    /// Priority, tenant, name.
    ready: Vec<(String, String, String)>,
    ring: BTreeSet<(String, String)>,
    leased: BTreeSet<String>,
    delayed: BTreeSet<String>,
    dead: BTreeSet<String>,
    /// Worker and token → name.
    claims: BTreeMap<(String, String), String>,
    deadlines: BTreeSet<String>,
    held: BTreeMap<String, i64>,
    /// Tenant → jobs, bytes, running.
    uses: BTreeMap<String, (i64, i64, i64)>,
    jobs: i64,
    /// What operators set for tenants, and for the queue.
    settings: BTreeMap<String, HashMap<String, String>>,
    config: HashMap<String, String>,
    /// Tenant → failed attempts in a row.
    fails: BTreeMap<String, u64>,
    bytes: i64,
    held_bytes: i64,
    dead_bytes: i64,
    bell: usize,
    /// Tenant → name and size of each asset: as listed, and as it is there.
    assets: BTreeMap<String, BTreeMap<String, usize>>,
    asset_contents: BTreeMap<String, BTreeMap<String, usize>>,
    /// Replies, results and the like without a time to live.
    lasting_results: Vec<String>,
    /// What should be gone once everything ended.
    left_over: Vec<String>,
}

impl Seen {
    /// Whether a tenant may start one more job.
    fn may_start(&self, tenant: &str) -> bool {
        let set = self.settings.get(tenant);
        let number = |text: Option<&String>| text.map_or(0, |n| n.parse::<i64>().unwrap());
        let own = number(set.and_then(|set| set.get("running")));
        let cap = if own > 0 { own } else { number(self.config.get("tenant_running")) };
        let broken = self.fails.get(tenant).is_some_and(|fails| *fails >= BROKEN_AFTER);
        let running = self.uses.get(tenant).map_or(0, |used| used.2);
        let paused = set.and_then(|set| set.get("state")).is_some_and(|state| state == "paused");
        let cap = if broken { 1 } else { cap };
        !paused && (cap == 0 || running < cap)
    }

    async fn look(rig: &Rig) -> Self {
        let mut seen = Self::default();
        let prefix = rig.keys.prefix();
        let mut redis = rig.connection().await;
        let keys: Vec<String> = ask(&mut redis, &["KEYS", &format!("{prefix}*")]).await;
        for key in keys {
            let rest = &key[prefix.len()..];
            let (kind, of) = rest.split_once(':').unwrap_or((rest, ""));
            let of = of.to_owned();
            match kind {
                "job" => {
                    if ask::<i64>(&mut redis, &["PTTL", &key]).await > 0 {
                        seen.expiring.insert(of.clone());
                    }
                    seen.records.insert(of, ask(&mut redis, &["HGETALL", &key]).await);
                }
                "doc" => {
                    seen.documents.insert(of);
                }
                "ready" => {
                    let (priority, tenant) = of.split_once(':').unwrap();
                    for name in ask::<Vec<String>>(&mut redis, &["LRANGE", &key, "0", "-1"]).await {
                        seen.ready.push((priority.to_owned(), tenant.to_owned(), name));
                    }
                }
                "ring" => {
                    let tenants: Vec<String> = ask(&mut redis, &["ZRANGE", &key, "0", "-1"]).await;
                    seen.ring.extend(tenants.into_iter().map(|tenant| (of.clone(), tenant)));
                }
                "leased" => seen.leased = ask(&mut redis, &["ZRANGE", &key, "0", "-1"]).await,
                "delayed" => seen.delayed = ask(&mut redis, &["ZRANGE", &key, "0", "-1"]).await,
                "dead" => seen.dead = ask(&mut redis, &["ZRANGE", &key, "0", "-1"]).await,
                "claims" => {
                    let claims: BTreeMap<String, String> =
                        ask(&mut redis, &["HGETALL", &key]).await;
                    let claims = claims.into_iter();
                    seen.claims.extend(claims.map(|(token, name)| ((of.clone(), token), name)));
                }
                "state" => {
                    let state: HashMap<String, String> = ask(&mut redis, &["HGETALL", &key]).await;
                    let number = |field: &str| state.get(field).map_or(0, |n| n.parse().unwrap());
                    (seen.jobs, seen.bytes) = (number("jobs"), number("bytes"));
                    (seen.held_bytes, seen.dead_bytes) = (number("held"), number("dead_bytes"));
                }
                "bell" => seen.bell = seen.bell.max(ask(&mut redis, &["LLEN", &key]).await),
                "deadlines" => seen.deadlines = ask(&mut redis, &["ZRANGE", &key, "0", "-1"]).await,
                "held" => seen.held = ask(&mut redis, &["HGETALL", &key]).await,
                "use" => {
                    let used: HashMap<String, String> = ask(&mut redis, &["HGETALL", &key]).await;
                    let number = |field: &str| used.get(field).map_or(0, |n| n.parse().unwrap());
                    let counted = (number("jobs"), number("bytes"), number("running"));
                    if let Some(fails) = used.get("fails") {
                        seen.fails.insert(of.clone(), fails.parse().unwrap());
                    }
                    if counted != (0, 0, 0) {
                        seen.uses.insert(of.clone(), counted);
                    }
                }
                "reply" | "replies" | "pdf" | "result" => {
                    if ask::<i64>(&mut redis, &["PTTL", &key]).await < 0 {
                        seen.lasting_results.push(key.clone());
                    }
                }
                "in" | "stage" | "out" => {}
                "events" | "workers" | "worker" | "malformed" | "ctl" | "turns" | "predictions"
                | "verdicts" => {}
                "config" => seen.config = ask(&mut redis, &["HGETALL", &key]).await,
                "tenant" => {
                    seen.settings.insert(of, ask(&mut redis, &["HGETALL", &key]).await);
                }
                "asset" => {
                    let contents: BTreeMap<String, Vec<u8>> =
                        ask(&mut redis, &["HGETALL", &key]).await;
                    let sizes = contents.into_iter().map(|(name, bytes)| (name, bytes.len()));
                    seen.asset_contents.insert(of, sizes.collect());
                }
                "assets" => {
                    let lines: BTreeMap<String, String> = ask(&mut redis, &["HGETALL", &key]).await;
                    let bytes = |line: &String| line.split(' ').nth(1).unwrap().parse().unwrap();
                    let sizes = lines.iter().map(|(name, line)| (name.clone(), bytes(line)));
                    seen.assets.insert(of, sizes.collect());
                }
                "tenants" | "broken" | "history" => {}
                _ => panic!("{key} is no key of the contract"),
            }
            if ["in", "stage", "out", "ready", "ring", "leased", "delayed", "claims", "deadlines"]
                .contains(&kind)
            {
                seen.left_over.push(key.clone());
            }
        }
        seen
    }
}
