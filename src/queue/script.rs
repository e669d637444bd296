//! One script of the queue and how it is called: by its hash, and with its whole
//! text where Redis has forgotten it. Loading it first and calling it by its hash
//! once more would lose against whoever has it forgotten again in between.

use ::redis::aio::ConnectionLike;
use ::redis::{
    Cmd, ErrorKind, FromRedisValue, RedisError, RedisResult, ServerErrorKind, ToRedisArgs,
};

/// A Lua script, known to Redis by the hash of its text.
#[derive(Debug)]
pub(super) struct Script {
    text: String,
    hash: String,
}

/// How a script is named in a call.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum By {
    /// By its hash: short, and enough for as long as Redis remembers.
    Hash,
    /// By its text, which Redis cannot miss.
    Text,
}

impl Script {
    pub(super) fn new(text: String) -> Self {
        let hash = ::redis::Script::new(&text).get_hash().to_owned();
        Self { text, hash }
    }

    pub(super) fn hash(&self) -> &str {
        &self.hash
    }

    /// The command that has Redis remember the script.
    pub(super) fn load(&self) -> Cmd {
        let mut load = Cmd::new();
        load.arg("SCRIPT").arg("LOAD").arg(&self.text);
        load
    }

    /// The beginning of a call: the number of keys, the keys and the arguments follow.
    pub(super) fn command(&self, by: By) -> Cmd {
        let mut call = Cmd::new();
        match by {
            By::Hash => call.arg("EVALSHA").arg(&self.hash),
            By::Text => call.arg("EVAL").arg(&self.text),
        };
        call
    }

    pub(super) const fn call(&self) -> Call<'_> {
        Call { script: self, keys: Vec::new(), args: Vec::new() }
    }

    pub(super) fn key(&self, key: impl ToRedisArgs) -> Call<'_> {
        let mut call = self.call();
        call.key(key);
        call
    }

    pub(super) fn arg(&self, arg: impl ToRedisArgs) -> Call<'_> {
        let mut call = self.call();
        call.arg(arg);
        call
    }
}

/// A call of a script, with its keys and arguments.
pub(super) struct Call<'a> {
    script: &'a Script,
    keys: Vec<Vec<u8>>,
    args: Vec<Vec<u8>>,
}

impl Call<'_> {
    pub(super) fn key(&mut self, key: impl ToRedisArgs) -> &mut Self {
        key.write_redis_args(&mut self.keys);
        self
    }

    pub(super) fn arg(&mut self, arg: impl ToRedisArgs) -> &mut Self {
        arg.write_redis_args(&mut self.args);
        self
    }

    /// Runs the script and reads its answer.
    pub(super) async fn invoke<T: FromRedisValue>(
        &self,
        connection: &mut impl ConnectionLike,
    ) -> RedisResult<T> {
        match self.command(By::Hash).query_async(connection).await {
            Err(error) if is_forgotten(&error) => {
                self.command(By::Text).query_async(connection).await
            }
            answer => answer,
        }
    }

    fn command(&self, by: By) -> Cmd {
        let mut command = self.script.command(by);
        command.arg(self.keys.len()).arg(&self.keys).arg(&self.args);
        command
    }
}

fn is_forgotten(error: &RedisError) -> bool {
    error.kind() == ErrorKind::Server(ServerErrorKind::NoScript)
}
