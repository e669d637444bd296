//! What an operator decides about jobs: how much they share, and whether their
//! scripts may run. Pure.

/// How much jobs share.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Isolation {
    /// A tenant's own jobs follow each other in one warm page.
    Tenant,
    /// Every job has a context and a renderer process of its own.
    Job,
    /// A tenant's warm pages each have a whole browser of their own.
    Browser,
}

impl Isolation {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::Tenant, Self::Job, Self::Browser];

    /// The word for it, in the configuration and in Redis.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Tenant => "tenant",
            Self::Job => "job",
            Self::Browser => "browser",
        }
    }

    /// The one called `text`.
    #[must_use]
    pub fn from_name(text: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|isolation| isolation.as_str() == text)
    }
}

/// What was decided for one tenant; `None`: what holds for all.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Rules {
    /// How much its jobs share.
    pub isolation: Option<Isolation>,
    /// Whether its documents' scripts may run.
    pub scripts: Option<bool>,
}

impl Rules {
    /// As Redis keeps them: `isolation` and `scripts`, empty where nothing was
    /// decided. Words of a newer release count as the strictest that is known.
    #[must_use]
    pub fn read(isolation: &str, scripts: &str) -> Self {
        Self {
            isolation: (!isolation.is_empty())
                .then(|| Isolation::from_name(isolation).unwrap_or(Isolation::Job)),
            scripts: (!scripts.is_empty()).then_some(scripts == "on"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rules_read_back_and_err_on_the_safe_side() {
        for isolation in Isolation::ALL {
            let rules = Rules::read(isolation.as_str(), "");
            assert_eq!(rules, Rules { isolation: Some(isolation), scripts: None });
        }
        assert_eq!(Rules::read("", ""), Rules::default());
        assert_eq!(Rules::read("", "on").scripts, Some(true));
        assert_eq!(Rules::read("", "sometimes").scripts, Some(false));
        assert_eq!(Rules::read("machine", "off").isolation, Some(Isolation::Job));
    }
}
