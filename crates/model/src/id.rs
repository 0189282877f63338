//! AWS-style ids: a prefix, a dash and 17 hexadecimal digits, one Rust type per kind.

use serde::{Deserialize, Deserializer, Serialize, de};
use std::borrow::Borrow;
use std::cell::RefCell;
use std::collections::HashSet;
use std::fmt;
use std::sync::Arc;

thread_local! {
    static KNOWN: RefCell<Option<HashSet<Arc<str>>>> = const { RefCell::new(None) };
}

/// Reads many rows so that equal ids in them share their text, as they do where rows are made from one
/// another: a row names a dozen of them.
pub fn sharing<T>(read: impl FnOnce() -> T) -> T {
    KNOWN.set(Some(HashSet::new()));
    let done = read();
    KNOWN.set(None);
    done
}

fn shared<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Arc<str>, D::Error> {
    struct Text;

    impl de::Visitor<'_> for Text {
        type Value = Arc<str>;

        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("an id")
        }

        fn visit_str<E>(self, text: &str) -> Result<Arc<str>, E> {
            Ok(KNOWN.with_borrow_mut(|known| {
                let Some(known) = known else {
                    return text.into();
                };
                if let Some(same) = known.get(text) {
                    return same.clone();
                }
                let new: Arc<str> = text.into();
                known.insert(new.clone());
                new
            }))
        }
    }

    deserializer.deserialize_str(Text)
}

macro_rules! ids {
    ($($(#[$doc:meta])* $name:ident $prefix:literal,)*) => {$(
        $(#[$doc])*
        #[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        #[serde(transparent)]
        pub struct $name(#[serde(deserialize_with = "shared")] Arc<str>);

        impl $name {
            /// What stands before the dash.
            pub const PREFIX: &'static str = $prefix;

            /// A fresh id in AWS's long form, `PREFIX-0` and 16 digits of `entropy`.
            pub fn from_entropy(entropy: u64) -> Self {
                Self(format!("{}-0{entropy:016x}", $prefix).into())
            }

            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl From<&str> for $name {
            fn from(text: &str) -> Self {
                Self(text.into())
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }

        impl Borrow<str> for $name {
            fn borrow(&self) -> &str {
                &self.0
            }
        }

        impl AsRef<str> for $name {
            fn as_ref(&self) -> &str {
                &self.0
            }
        }
    )*};
}

ids! {
    InstanceId "i",
    ReservationId "r",
    VolumeId "vol",
    ImageId "ami",
    InterfaceId "eni",
    AttachmentId "eni-attach",
    VpcId "vpc",
    SubnetId "subnet",
    GroupId "sg",
    RuleId "sgr",
    KeyPairId "key",
    RouteTableId "rtb",
    RouteTableAssociationId "rtbassoc",
    GatewayId "igw",
    AclId "acl",
    AclAssociationId "aclassoc",
    DhcpOptionsId "dopt",
    HostId "host",
    /// Names one cloud, so that an agent never obeys the controller of another one.
    CloudId "cloud",
}

/// A 12-digit account number.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct AccountId(#[serde(deserialize_with = "shared")] Arc<str>);

impl AccountId {
    pub fn from_entropy(entropy: u64) -> Self {
        Self(format!("{:012}", 100_000_000_000 + entropy % 900_000_000_000).into())
    }

    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl From<&str> for AccountId {
    fn from(text: &str) -> Self {
        Self(text.into())
    }
}

impl Borrow<str> for AccountId {
    fn borrow(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for AccountId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for AccountId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// A hardware address, written `02:…` in lower case.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Mac(pub [u8; 6]);

impl Mac {
    /// A locally administered unicast address whose last five bytes are `entropy`.
    pub fn from_entropy(entropy: u64) -> Self {
        let b = entropy.to_be_bytes();
        Self([0x02, b[3], b[4], b[5], b[6], b[7]])
    }
}

impl fmt::Display for Mac {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [a, b, c, d, e, g] = self.0;
        write!(f, "{a:02x}:{b:02x}:{c:02x}:{d:02x}:{e:02x}:{g:02x}")
    }
}

impl fmt::Debug for Mac {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self}")
    }
}

impl std::str::FromStr for Mac {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let bytes = text
            .split(':')
            .map(|pair| u8::from_str_radix(pair, 16))
            .collect::<Result<Vec<_>, _>>()
            .map_err(|_| format!("{text} is not a hardware address"))?;
        let bytes = bytes
            .try_into()
            .map_err(|_| format!("{text} is not a hardware address"))?;
        Ok(Self(bytes))
    }
}

impl Serialize for Mac {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Mac {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?
            .parse()
            .map_err(serde::de::Error::custom)
    }
}
