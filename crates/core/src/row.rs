//! Rows: the typed facts that a store keeps, and the changes between them.

use boira_model::*;
use serde::{Deserialize, Serialize};
use std::sync::Arc;

/// Remembers what an idempotent call answered, so that its repetition answers the same.
/// See "Ensuring idempotency" of the EC2 guide.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ClientToken {
    pub owner: AccountId,
    pub action: String,
    pub token: String,
    /// Hash of the call's parameters without the token.
    pub parameters: String,
    pub instances: Vec<InstanceId>,
    pub at: Wall,
}

impl ClientToken {
    pub fn key(owner: &AccountId, action: &str, token: &str) -> String {
        format!("{owner}/{action}/{token}")
    }
}

/// The last small number given out per kind of resource, for those who prefer `7` to `i-0ab…`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Counters {
    pub account: u64,
    pub group: u64,
    pub host: u64,
    pub image: u64,
    pub instance: u64,
    pub interface: u64,
    pub key_pair: u64,
    pub subnet: u64,
    pub volume: u64,
    pub vpc: u64,
    pub zone: u64,
}

macro_rules! rows {
    ($($code:literal $kind:ident($type:ty) key |$row:ident| $key:expr;)*) => {
        /// The kind of a row; the number is what the store writes.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub enum Kind { $($kind = $code,)* }

        impl Kind {
            pub const ALL: &'static [Kind] = &[$(Kind::$kind,)*];

            pub fn from_code(code: u8) -> Option<Self> {
                match code { $($code => Some(Self::$kind),)* _ => None }
            }
        }

        #[derive(Clone, Debug, PartialEq)]
        pub enum Row { $($kind(Arc<$type>),)* }

        impl Row {
            pub fn kind(&self) -> Kind {
                match self { $(Self::$kind(_) => Kind::$kind,)* }
            }

            /// Unique among the rows of its kind.
            pub fn key(&self) -> String {
                match self { $(Self::$kind($row) => $key,)* }
            }

            pub fn to_json(&self) -> String {
                match self {
                    $(Self::$kind(row) => serde_json::to_string(&**row),)*
                }
                .expect("rows have string keys only, so they always serialise")
            }

            /// Reads what [`Row::to_json`] wrote.
            pub fn from_json(kind: Kind, json: &str) -> Result<Self, serde_json::Error> {
                Ok(match kind { $(Kind::$kind => Self::$kind(Arc::new(serde_json::from_str(json)?)),)* })
            }
        }

        $(impl From<$type> for Row {
            fn from(row: $type) -> Self {
                Self::$kind(Arc::new(row))
            }
        })*
    };
}

rows! {
    1 Counters(Counters) key |_row| String::new();
    2 Zone(Zone) key |row| row.name.clone();
    3 Account(Account) key |row| row.id.to_string();
    4 AccessKey(AccessKey) key |row| row.id.clone();
    5 KeyPair(KeyPair) key |row| row.id.to_string();
    6 Host(Host) key |row| row.id.to_string();
    7 Image(Image) key |row| row.id.to_string();
    8 Vpc(Vpc) key |row| row.id.to_string();
    9 Subnet(Subnet) key |row| row.id.to_string();
    10 Group(SecurityGroup) key |row| row.id.to_string();
    11 Interface(Interface) key |row| row.id.to_string();
    12 Volume(Volume) key |row| row.id.to_string();
    13 Instance(Instance) key |row| row.id.to_string();
    14 ClientToken(ClientToken) key |row| ClientToken::key(&row.owner, &row.action, &row.token);
    15 Invitation(Invitation) key |row| row.digest.clone();
}

/// What one decision changes, in order. The store commits it in one transaction.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Change {
    pub puts: Vec<Row>,
    pub deletes: Vec<(Kind, String)>,
    /// Lines for the instances' histories.
    pub events: Vec<Event>,
}

impl Change {
    pub fn is_empty(&self) -> bool {
        self.puts.is_empty() && self.deletes.is_empty() && self.events.is_empty()
    }
}
