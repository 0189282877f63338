//! STS: who am I.

use boira_api::ApiError;
use boira_api::shape::Operation;
use boira_api::value::Struct;
use boira_model::AccountId;

pub fn call(operation: &'static Operation, account: &AccountId) -> Result<Struct, ApiError> {
    match operation.name {
        "GetCallerIdentity" => {
            let output = operation.output().expect("GetCallerIdentity has an output");
            Ok(Struct::new(output)
                .with("Account", account.to_string())
                .with("Arn", format!("arn:aws:iam::{account}:root"))
                .with("UserId", account.to_string()))
        }
        other => Err(ApiError::unsupported_operation(other)),
    }
}
