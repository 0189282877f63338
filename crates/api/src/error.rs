//! AWS's errors: a code that programs match, a message for people, the HTTP
//! status, and the envelope of each protocol.
//!
//! Codes, messages and statuses are those of "Error codes for the Amazon EC2
//! API" and of the common errors in the references of STS and IAM.

use std::borrow::Cow;
use std::fmt;

use crate::shape::{Protocol, Service};
use crate::xml::{DECLARATION, escape};

/// The code of a launch for which no host has room.
pub const NO_ROOM: &str = "InsufficientInstanceCapacity";

/// An error as AWS would answer it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ApiError {
    pub code: Cow<'static, str>,
    pub message: String,
    /// The HTTP status.
    pub status: u16,
}

impl ApiError {
    /// An error with the status that AWS documents for the code.
    pub fn new(code: impl Into<Cow<'static, str>>, message: impl Into<String>) -> ApiError {
        let code = code.into();
        let status = status(&code);
        ApiError {
            code,
            message: message.into(),
            status,
        }
    }

    /// The service has no operation of this name in this version of its API.
    pub fn invalid_action(service: &Service, action: &str, version: &str) -> ApiError {
        let (action, version) = (shown(action), shown(version));
        let message = match service.protocol {
            Protocol::Ec2 => format!("The action {action} is not valid for this web service."),
            Protocol::Query => {
                format!("Could not find operation {action} for version {version}")
            }
        };
        ApiError::new("InvalidAction", message)
    }

    /// A request without `Action`.
    pub fn missing_action() -> ApiError {
        ApiError::new(
            "MissingAction",
            "The request is missing an action or a required parameter.",
        )
    }

    pub fn missing_parameter(parameter: impl fmt::Display) -> ApiError {
        ApiError::new(
            "MissingParameter",
            format!("The request must contain the parameter {parameter}"),
        )
    }

    pub fn unknown_parameter(parameter: &str) -> ApiError {
        ApiError::new(
            "UnknownParameter",
            format!("The parameter {} is not recognized", shown(parameter)),
        )
    }

    /// A value that a parameter can't take; `reason` is a sentence, or empty.
    pub fn invalid_value(parameter: &str, value: &str, reason: &str) -> ApiError {
        let space = if reason.is_empty() { "" } else { " " };
        let message = format!(
            "Value ({}) for parameter {} is invalid.{space}{reason}",
            shown(value),
            shown(parameter)
        );
        ApiError::new("InvalidParameterValue", message)
    }

    pub fn invalid_parameter_value(message: impl Into<String>) -> ApiError {
        ApiError::new("InvalidParameterValue", message)
    }

    pub fn invalid_combination(message: impl Into<String>) -> ApiError {
        ApiError::new("InvalidParameterCombination", message)
    }

    /// A parameter that AWS has and Boira doesn't honour.
    pub fn unsupported_parameter(parameter: &str) -> ApiError {
        let message = format!(
            "The parameter {} is not supported by this cloud.",
            shown(parameter)
        );
        ApiError::new("UnsupportedOperation", message)
    }

    /// An operation that AWS has and Boira doesn't serve.
    pub fn unsupported_operation(operation: &str) -> ApiError {
        let message = format!("The operation {operation} is not supported by this cloud.");
        ApiError::new("UnsupportedOperation", message)
    }

    pub fn malformed_query(message: impl Into<String>) -> ApiError {
        ApiError::new("MalformedQueryString", message)
    }

    /// What a request with DryRun=true answers when it would have succeeded.
    pub fn dry_run() -> ApiError {
        ApiError::new(
            "DryRunOperation",
            "Request would have succeeded, but DryRun flag is set.",
        )
    }

    pub fn idempotent_parameter_mismatch() -> ApiError {
        ApiError::new(
            "IdempotentParameterMismatch",
            "The client token you have provided is associated with a request for which the parameters do not match.",
        )
    }

    pub fn insufficient_instance_capacity(message: impl Into<String>) -> ApiError {
        ApiError::new(NO_ROOM, message)
    }

    pub fn unavailable(message: impl Into<String>) -> ApiError {
        ApiError::new("Unavailable", message)
    }

    /// Whether the caller is at fault, as the `query` envelope says.
    pub fn is_senders(&self) -> bool {
        self.status < 500
    }

    /// The body of the answer in the service's protocol.
    pub fn to_xml(&self, service: &Service, request_id: &str) -> Vec<u8> {
        let mut out = Vec::with_capacity(320 + self.message.len());
        out.extend_from_slice(DECLARATION);
        let mut element = |open: &str, text: &str, close: &str| {
            out.extend_from_slice(open.as_bytes());
            escape(&mut out, text);
            out.extend_from_slice(close.as_bytes());
        };
        match service.protocol {
            Protocol::Ec2 => {
                element("<Response><Errors><Error><Code>", &self.code, "</Code>");
                element("<Message>", &self.message, "</Message></Error></Errors>");
                element("<RequestID>", request_id, "</RequestID></Response>");
            }
            Protocol::Query => {
                element("<ErrorResponse xmlns=\"", service.namespace, "\"><Error>");
                element(
                    "<Type>",
                    if self.is_senders() {
                        "Sender"
                    } else {
                        "Receiver"
                    },
                    "</Type>",
                );
                element("<Code>", &self.code, "</Code>");
                element("<Message>", &self.message, "</Message></Error>");
                element("<RequestId>", request_id, "</RequestId></ErrorResponse>");
            }
        }
        out
    }
}

impl fmt::Display for ApiError {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{}: {}", self.code, self.message)
    }
}

impl std::error::Error for ApiError {}

/// The HTTP status that AWS documents for a code.
fn status(code: &str) -> u16 {
    match code {
        "AuthFailure" | "OptInRequired" => 401,
        "UnauthorizedOperation"
        | "AccessDenied"
        | "AccessDeniedException"
        | "MissingAuthenticationToken"
        | "SignatureDoesNotMatch"
        | "InvalidClientTokenId"
        | "Blocked"
        | "ExpiredToken" => 403,
        "NoSuchEntity" => 404,
        "EntityAlreadyExists" | "DeleteConflict" | "LimitExceeded" => 409,
        "DryRunOperation" => 412,
        "RequestEntityTooLarge" => 413,
        NO_ROOM
        | "InsufficientAddressCapacity"
        | "InsufficientCapacity"
        | "InsufficientHostCapacity"
        | "InsufficientReservedInstanceCapacity"
        | "InsufficientVolumeCapacity"
        | "InternalError"
        | "InternalFailure" => 500,
        "RequestLimitExceeded" | "Unavailable" | "ServiceUnavailable" => 503,
        _ => 400,
    }
}

/// What of a caller's text is repeated to him: the first 100 characters.
pub fn shown(text: &str) -> &str {
    text.char_indices()
        .nth(100)
        .map_or(text, |(end, _)| &text[..end])
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::shapes::{ec2, sts};

    #[test]
    fn each_protocol_has_its_envelope() {
        let error = ApiError::new(
            "InvalidInstanceID.NotFound",
            "The instance ID 'i-1<&' does not exist",
        );
        assert_eq!(
            String::from_utf8_lossy(&error.to_xml(&ec2::SERVICE, "r-1")),
            "<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n<Response><Errors><Error>\
             <Code>InvalidInstanceID.NotFound</Code>\
             <Message>The instance ID 'i-1&lt;&amp;' does not exist</Message></Error></Errors>\
             <RequestID>r-1</RequestID></Response>"
        );
        let error = ApiError::new(
            "InvalidClientTokenId",
            "The security token included in the request is invalid.",
        );
        assert_eq!(error.status, 403);
        assert_eq!(
            String::from_utf8_lossy(&error.to_xml(&sts::SERVICE, "r-1")),
            "<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n\
             <ErrorResponse xmlns=\"https://sts.amazonaws.com/doc/2011-06-15/\"><Error><Type>Sender</Type>\
             <Code>InvalidClientTokenId</Code>\
             <Message>The security token included in the request is invalid.</Message></Error>\
             <RequestId>r-1</RequestId></ErrorResponse>"
        );
    }

    #[test]
    fn codes_have_the_documented_status() {
        for (code, status) in [
            ("AuthFailure", 401),
            ("UnauthorizedOperation", 403),
            ("InvalidParameterValue", 400),
            ("DryRunOperation", 412),
            ("InsufficientInstanceCapacity", 500),
            ("RequestLimitExceeded", 503),
            ("Unavailable", 503),
        ] {
            assert_eq!(ApiError::new(code, "").status, status, "{code}");
        }
    }

    #[test]
    fn long_values_are_cut_in_messages() {
        let error = ApiError::invalid_value("Name", &"é".repeat(5000), "");
        assert!(error.message.chars().count() < 300);
    }
}
