//! `tillroll asset`: logos, fonts and style sheets of a tenant, stored once for all its jobs.

use std::path::{Path, PathBuf};

use serde_json::json;

use super::exit::{Exit, Failure, print};
use super::{Session, counted, parts, table, tenant};
use crate::config::units::show_bytes_rounded;
use crate::job::assets::{Asset, is_name};
use crate::job::sniff;
use crate::queue::Queue;
use crate::queue::assets::{MOST_BYTES, Put, Stored};

/// Which assets.
#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(subcommand)]
    action: Action,
}

#[derive(Debug, clap::Subcommand)]
enum Action {
    /// Store images, fonts and style sheets for all jobs of a tenant
    ///
    /// Its documents find each by a relative URL, like an asset that came with the job;
    /// a job's own of the same name counts. An asset of the same name is replaced; jobs
    /// that are claimed from then on get the new one. All files are looked at before
    /// the first is stored. Exit code 65 where one is refused.
    Put(PutArgs),
    /// List what is stored, of one tenant or of all
    Ls {
        /// Only this tenant's
        #[arg(long, value_name = "T")]
        tenant: Option<String>,
    },
    /// Take assets away
    ///
    /// Exit code 65 where one of the names is not there; the others go all the same.
    Rm {
        /// Whose they are
        #[arg(long, value_name = "T", default_value = "default")]
        tenant: String,
        /// The names, as `tillroll asset ls` shows them
        #[arg(value_name = "NAME", required = true)]
        names: Vec<String>,
    },
}

#[derive(Debug, clap::Args)]
struct PutArgs {
    /// Whose they are
    #[arg(long, value_name = "T", default_value = "default")]
    tenant: String,
    /// The name of a single FILE, like img/logo.png; else each has its file's own
    #[arg(long, value_name = "NAME")]
    name: Option<String>,
    /// PNG, JPEG, GIF, WebP, AVIF, SVG, WOFF, WOFF2, TrueType, OpenType or CSS
    #[arg(value_name = "FILE", required = true)]
    files: Vec<PathBuf>,
}

/// Runs the verb.
///
/// # Errors
/// Where Redis is away, a file cannot be an asset, a limit is reached, or a name is not
/// there.
pub fn run(args: &Args, session: &Session) -> Result<(), Failure> {
    match &args.action {
        Action::Put(args) => {
            tenant::check(&args.tenant)?;
            let assets = read(args)?;
            with_queue(session, async |queue| put(session, queue, &args.tenant, &assets).await)
        }
        Action::Ls { tenant: whose } => {
            whose.as_deref().map_or(Ok(()), tenant::check)?;
            with_queue(session, async |queue| ls(session, queue, whose.as_deref()).await)
        }
        Action::Rm { tenant: whose, names } => {
            tenant::check(whose)?;
            with_queue(session, async |queue| rm(session, queue, whose, names).await)
        }
    }
}

fn with_queue(
    session: &Session,
    what: impl AsyncFnOnce(&Queue) -> Result<(), Failure>,
) -> Result<(), Failure> {
    super::runtime()?.block_on(async {
        let queue = parts::queue(session, "asset").await?;
        what(&queue).await
    })
}

/// The files, each under its name and with the type that it is.
fn read(args: &PutArgs) -> Result<Vec<Asset>, Failure> {
    if args.name.is_some() && args.files.len() > 1 {
        return Err(Failure::new(
            Exit::Usage,
            "reading --name",
            format!("{} files cannot all have one name", args.files.len()),
            "put them one after the other, or leave --name out",
        ));
    }
    let mut assets: Vec<Asset> = Vec::with_capacity(args.files.len());
    for file in &args.files {
        let asset = asset(file, args.name.as_deref())?;
        if assets.iter().any(|other| other.name == asset.name) {
            return Err(Failure::new(
                Exit::Usage,
                format!("reading {}", file.display()),
                format!("another of these files is called {} as well", asset.name),
                "put them one after the other, with --name DIRECTORY/NAME",
            ));
        }
        assets.push(asset);
    }
    Ok(assets)
}

fn asset(file: &Path, name: Option<&str>) -> Result<Asset, Failure> {
    let what = || format!("reading {}", file.display());
    let fail = |exit, why: &dyn std::fmt::Display, fix: &str| Failure::new(exit, what(), why, fix);
    let unreadable = |error: std::io::Error| {
        fail(
            Exit::Document,
            &error,
            "check the path and its permissions; name files, no directories",
        )
    };
    // Not more of it than is needed to see that it is too much.
    let mut content = Vec::new();
    let open = std::fs::File::open(file).map_err(unreadable)?;
    let most = u64::try_from(MOST_BYTES).unwrap_or(u64::MAX).saturating_add(1);
    std::io::Read::read_to_end(&mut std::io::Read::take(open, most), &mut content)
        .map_err(unreadable)?;
    if content.len() > MOST_BYTES {
        let why = format!("it has more than {} MiB", MOST_BYTES >> 20);
        return Err(fail(Exit::Document, &why, "make it smaller: no limit allows more"));
    }
    let own = file.file_name().and_then(|name| name.to_str());
    let name = name.or(own).unwrap_or_default();
    if !is_name(name) {
        return Err(fail(
            Exit::Usage,
            &format!("{name:?} cannot be the name of an asset"),
            "give --name: the path that the documents use, without a leading slash, of \
             A-Z a-z 0-9 . _ - and /, at most 200 characters",
        ));
    }
    let media_type = sniff::media_type(name, &content)
        .map_err(|problem| fail(Exit::Document, &problem.message, &problem.remedy))?;
    Ok(Asset { name: name.to_owned(), media_type, bytes: content.into() })
}

async fn put(
    session: &Session,
    queue: &Queue,
    tenant: &str,
    assets: &[Asset],
) -> Result<(), Failure> {
    let mut stored = Vec::new();
    let mut failed = None;
    for asset in assets {
        match queue.put_asset(tenant, asset).await {
            Ok(put @ Put::Refused { .. }) => {
                failed = Some(refused(tenant, asset, put));
                break;
            }
            Ok(put) => stored.push((asset, if put == Put::Added { "added" } else { "replaced" })),
            Err(error) => {
                let what = format!("storing {}", asset.name);
                failed = Some(Failure::of_redis(what, &error));
                break;
            }
        }
    }
    print(&if session.json {
        let stored: Vec<_> = stored
            .iter()
            .map(|(asset, outcome)| {
                json!({"name": asset.name, "type": asset.media_type, "bytes": asset.bytes.len(),
                       "outcome": outcome})
            })
            .collect();
        format!("{}\n", json!({"v": 1, "tenant": tenant, "assets": stored}))
    } else {
        let line = |(asset, outcome): &(&Asset, &str)| {
            let size = show_bytes_rounded(asset.bytes.len() as u64);
            format!("{outcome} {} for {tenant}: {}, {size}\n", asset.name, asset.media_type)
        };
        stored.iter().map(line).collect()
    })?;
    failed.map_or(Ok(()), Err)
}

/// What is said of an asset that is one, or some bytes, too many.
fn refused(tenant: &str, asset: &Asset, put: Put) -> Failure {
    let Put::Refused { limit, found, allowed } = put else {
        return Failure::new(Exit::Bug, "storing an asset", "it was not refused", "report this");
    };
    let raise = |value: &str| format!("`tillroll config set limits.{limit} {value}`");
    let (why, fix) = match limit {
        "asset_bytes" => (
            format!("it has {found} bytes, {allowed} are allowed in one asset"),
            format!(
                "make the image smaller, leave scripts that nobody prints out of the font, or {}",
                raise("4MiB")
            ),
        ),
        "tenant_assets" => (
            format!("{tenant} would have {found} assets, {allowed} are allowed"),
            format!(
                "take one away that no document uses (`tillroll asset rm`), or {}",
                raise("200")
            ),
        ),
        _ => (
            format!(
                "the assets of {tenant} would have {found} bytes together, {allowed} are allowed"
            ),
            format!(
                "take one away that no document uses (`tillroll asset rm`), or {}",
                raise("16MiB")
            ),
        ),
    };
    Failure::new(Exit::Document, format!("storing {}", asset.name), why, fix)
}

async fn ls(session: &Session, queue: &Queue, whose: Option<&str>) -> Result<(), Failure> {
    let unavailable = |error| parts::unavailable(&error);
    let tenants = match whose {
        Some(tenant) => vec![tenant.to_owned()],
        None => queue.tenants_with_assets().await.map_err(unavailable)?,
    };
    let mut assets: Vec<Stored> = Vec::new();
    for tenant in &tenants {
        assets.extend(queue.list_assets(tenant).await.map_err(unavailable)?);
    }
    if session.json {
        return print(&format!("{}\n", json!({"v": 1, "assets": assets})));
    }
    if assets.is_empty() {
        return print(&match whose {
            Some(tenant) => format!("{tenant} has no assets\n"),
            None => "no tenant has assets\n".to_owned(),
        });
    }
    let rows = assets.iter().map(|asset| {
        vec![
            asset.tenant.clone(),
            asset.name.clone(),
            asset.media_type.clone(),
            show_bytes_rounded(asset.bytes),
            asset.sha256.chars().take(12).collect(),
        ]
    });
    let rows: Vec<_> = rows.collect();
    let bytes = assets.iter().map(|asset| asset.bytes).sum();
    let sum = format!(
        "{}, {} together\n",
        counted(assets.len() as u64, "asset"),
        show_bytes_rounded(bytes)
    );
    print(&(table(&["tenant", "name", "type", "size", "sha256"], &rows) + &sum))
}

async fn rm(
    session: &Session,
    queue: &Queue,
    tenant: &str,
    names: &[String],
) -> Result<(), Failure> {
    let removed = queue.remove_assets(tenant, names).await;
    let removed = removed.map_err(|error| parts::unavailable(&error))?;
    let missing: Vec<&String> = names.iter().filter(|name| !removed.contains(name)).collect();
    print(&if session.json {
        format!("{}\n", json!({"v": 1, "tenant": tenant, "removed": removed, "missing": missing}))
    } else {
        removed.iter().map(|name| format!("removed {name} of {tenant}\n")).collect()
    })?;
    if missing.is_empty() {
        return Ok(());
    }
    let missing: Vec<&str> = missing.into_iter().map(String::as_str).collect();
    Err(Failure::new(
        Exit::Document,
        format!("removing assets of {tenant}"),
        format!("it has none called {}", missing.join(", ")),
        format!("`tillroll asset ls --tenant {tenant}` lists them"),
    ))
}
