//! Enrolment tokens: their hashes, and how often each may still be used.
//!
//! Deliberately not here: the tokens themselves, which nobody keeps.

use jiff::Timestamp;
use serde::Serialize;
use sqlx::query;

use super::{Columns, Database, Result, millis, stored, time};

/// A token as it is kept.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Token {
    /// What it is called; says nothing about the token.
    pub(crate) id: String,
    /// The policy of machines that enrol with it.
    pub(crate) policy: String,
    /// How many machines may enrol with it.
    pub(crate) uses: u64,
    /// How many still may.
    pub(crate) uses_left: u64,
    pub(crate) created: Timestamp,
    pub(crate) expires: Timestamp,
    pub(crate) revoked: Option<Timestamp>,
}

impl Database {
    /// Keeps a new token. Whether there is such a policy.
    pub(crate) async fn create_token(&self, token: &Token, hash: &str) -> Result<bool> {
        let statement = query(
            "INSERT INTO tokens (id, hash, policy, uses, uses_left, created, expires)
             SELECT $1, $2, name, $3, $4, $5, $6 FROM policies WHERE name = $7",
        );
        let statement = statement
            .bind(token.id.clone())
            .bind(hash.to_owned())
            .bind(stored(token.uses))
            .bind(stored(token.uses_left))
            .bind(millis(token.created))
            .bind(millis(token.expires))
            .bind(token.policy.clone());
        Ok(self.write(statement).await? == 1)
    }

    /// All tokens, newest first.
    pub(crate) async fn tokens(&self) -> Result<Vec<Token>> {
        let rows = self
            .all(query(
                "SELECT id, policy, uses, uses_left, created, expires, revoked FROM tokens
                 ORDER BY created DESC, id LIMIT 1000",
            ))
            .await?;
        let token = |row: &sqlx::any::AnyRow| {
            Ok(Token {
                id: row.text("id")?,
                policy: row.text("policy")?,
                uses: row.count("uses")?,
                uses_left: row.count("uses_left")?,
                created: time(row.number("created")?),
                expires: time(row.number("expires")?),
                revoked: row.time_if("revoked")?,
            })
        };
        rows.iter().map(token).collect()
    }

    /// Makes a token good for nothing. Whether there is one.
    pub(crate) async fn revoke_token(&self, id: &str, now: Timestamp) -> Result<bool> {
        let statement = query("UPDATE tokens SET revoked = COALESCE(revoked, $1) WHERE id = $2");
        Ok(self.write(statement.bind(millis(now)).bind(id.to_owned())).await? == 1)
    }
}
