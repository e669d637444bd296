//! Fonts, script by script, as Chromium in its jail sees them: those below
//! `/usr`, not a user's own.

use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use super::finding::Finding;

/// How long fontconfig may take: with a cold cache it reads every font.
const PATIENCE: Duration = Duration::from_secs(20);

/// One script, or a group of characters.
struct Script {
    check: &'static str,
    /// As people call it.
    name: &'static str,
    /// What fontconfig is asked for.
    pattern: &'static str,
    /// Debian's package.
    package: &'static str,
}

const CJK: &str = "fonts-noto-cjk (90 MB)";
const SCRIPTS: &[Script] = &[
    Script {
        check: "fonts.latin",
        name: "Latin",
        pattern: ":lang=en",
        package: "fonts-liberation",
    },
    Script {
        check: "fonts.greek",
        name: "Greek",
        pattern: ":lang=el",
        package: "fonts-liberation",
    },
    Script {
        check: "fonts.cyrillic",
        name: "Cyrillic",
        pattern: ":lang=ru",
        package: "fonts-liberation",
    },
    Script {
        check: "fonts.devanagari",
        name: "Devanagari (Hindi, Marathi, Nepali)",
        pattern: ":lang=hi",
        package: "fonts-noto-core",
    },
    Script {
        check: "fonts.bengali",
        name: "Bengali",
        pattern: ":lang=bn",
        package: "fonts-noto-core",
    },
    Script { check: "fonts.tamil", name: "Tamil", pattern: ":lang=ta", package: "fonts-noto-core" },
    Script {
        check: "fonts.telugu",
        name: "Telugu",
        pattern: ":lang=te",
        package: "fonts-noto-core",
    },
    Script {
        check: "fonts.gujarati",
        name: "Gujarati",
        pattern: ":lang=gu",
        package: "fonts-noto-core",
    },
    Script {
        check: "fonts.arabic",
        name: "Arabic",
        pattern: ":lang=ar",
        package: "fonts-noto-core",
    },
    Script {
        check: "fonts.hebrew",
        name: "Hebrew",
        pattern: ":lang=he",
        package: "fonts-noto-core",
    },
    Script { check: "fonts.thai", name: "Thai", pattern: ":lang=th", package: "fonts-noto-core" },
    Script {
        check: "fonts.japanese",
        name: "Japanese",
        pattern: ":lang=ja",
        package: "fonts-ipafont-gothic (12 MB) or fonts-noto-cjk (90 MB)",
    },
    Script { check: "fonts.chinese", name: "Chinese", pattern: ":lang=zh-cn", package: CJK },
    Script { check: "fonts.korean", name: "Korean", pattern: ":lang=ko", package: CJK },
    Script {
        check: "fonts.rupee",
        name: "the rupee sign",
        pattern: ":charset=20b9",
        package: "fonts-noto-core",
    },
    Script {
        check: "fonts.emoji",
        name: "emoji",
        pattern: ":charset=1f600",
        package: "fonts-noto-color-emoji",
    },
];

/// The families that have what was asked for, or why nobody can tell.
type Families = Result<Vec<String>, String>;

pub(super) async fn check(dirs: &[PathBuf]) -> Vec<Finding> {
    let program = dirs.iter().map(|dir| dir.join("fc-list")).find(|path| path.is_file());
    let Some(program) = program else {
        return vec![Finding::fail(
            "fonts",
            "fc-list is not installed, so there is most likely no font either",
            "apt-get install fontconfig fonts-liberation fonts-noto-core fonts-ipafont-gothic",
        )];
    };
    let mut found = Vec::with_capacity(SCRIPTS.len());
    for script in SCRIPTS {
        found.push(ask(&program, script.pattern).await);
    }
    judge(&found)
}

async fn ask(program: &Path, pattern: &str) -> Families {
    // The environment and home directory of the jail: none.
    let output = tokio::process::Command::new(program)
        .args([pattern, "family", "file"])
        .env_clear()
        .env("HOME", "/nonexistent")
        .env("LC_ALL", "C.UTF-8")
        .env("PATH", "/usr/bin:/bin")
        .stdin(Stdio::null())
        .kill_on_drop(true)
        .output();
    let output = match tokio::time::timeout(PATIENCE, output).await {
        Ok(Ok(output)) => output,
        Ok(Err(error)) => return Err(error.to_string()),
        Err(_) => return Err(format!("no answer within {} s", PATIENCE.as_secs())),
    };
    if !output.status.success() {
        return Err(String::from_utf8_lossy(&output.stderr).trim().to_owned());
    }
    Ok(families(&String::from_utf8_lossy(&output.stdout)))
}

/// `/usr/share/fonts/x.ttf: Family,Other name` a line; only what the jail shows.
fn families(listed: &str) -> Vec<String> {
    let mut families: Vec<String> = listed
        .lines()
        .filter(|line| line.starts_with("/usr/"))
        .filter_map(|line| line.split_once(": "))
        .filter_map(|(_, names)| names.split([',', ':']).next())
        .map(|family| family.trim().to_owned())
        .collect();
    families.sort();
    families.dedup();
    families
}

/// One finding for all scripts that have a font, one for each that has none.
fn judge(found: &[Families]) -> Vec<Finding> {
    let mut covered = Vec::new();
    let mut findings = Vec::new();
    for (script, families) in SCRIPTS.iter().zip(found) {
        let Script { check, name, package, .. } = *script;
        let install = format!("apt-get install {package}, then restart the worker");
        match families {
            Err(why) => findings.push(Finding::fail(
                check,
                format!("fontconfig cannot be asked: {why}"),
                "run `fc-list` by hand; apt-get install --reinstall fontconfig",
            )),
            Ok(families) if !families.is_empty() => covered.push(name),
            Ok(_) if check == "fonts.latin" => findings.push(Finding::fail(
                check,
                "no font at all for Latin: every receipt would be blank boxes",
                install,
            )),
            Ok(_) => findings.push(Finding::warn(
                check,
                format!("no font for {name}: it prints as boxes"),
                install,
            )),
        }
    }
    if !covered.is_empty() {
        findings.insert(0, Finding::ok("fonts", format!("for {}", covered.join(", "))));
    }
    findings
}

#[cfg(test)]
mod tests {
    use super::super::finding::Verdict;
    use super::*;

    fn all() -> Vec<Families> {
        SCRIPTS.iter().map(|_| Ok(vec!["Some Sans".to_owned()])).collect()
    }

    fn without(check: &str) -> Vec<Finding> {
        let mut found = all();
        found[SCRIPTS.iter().position(|script| script.check == check).unwrap()] = Ok(Vec::new());
        judge(&found)
    }

    #[test]
    fn a_machine_without_hindi_is_told_the_package() {
        let findings = without("fonts.devanagari");
        let hindi = findings.iter().find(|f| f.check == "fonts.devanagari").unwrap();
        assert_eq!(hindi.verdict, Verdict::Warn);
        assert!(hindi.what.contains("Hindi"));
        assert!(hindi.remedy.as_ref().unwrap().contains("fonts-noto-core"));
        assert_eq!(findings.iter().filter(|f| f.verdict != Verdict::Ok).count(), 1);
    }

    #[test]
    fn a_machine_without_any_latin_font_cannot_work() {
        assert_eq!(without("fonts.latin").iter().map(|f| f.verdict).max(), Some(Verdict::Fail));
        assert_eq!(judge(&all()).len(), 1);
    }

    #[test]
    fn fonts_that_the_jail_does_not_show_do_not_count() {
        let listed = "/usr/share/fonts/a.ttf: Noto Sans,Noto Sans Light\n\
                      /home/op/.fonts/b.ttf: Mine\n/usr/share/fonts/c.ttf: Noto Sans\n";
        assert_eq!(families(listed), ["Noto Sans"]);
    }
}
