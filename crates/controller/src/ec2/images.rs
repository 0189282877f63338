//! Images: who sees which, what their owners change, and how they go.

use super::describe::{Ids, Listing, PAGE};
use super::{Answer, Call, Outcome, honours, instance_value, refusals, volumes};
use boira_api::id::IMAGE;
use boira_api::output::ec2 as out;
use boira_api::time::format_ms;
use boira_api::value::{Struct, Value};
use boira_api::{ApiError, shown};
use boira_core::image::{self, Grantee};
use boira_core::refusal::Thing;
use boira_core::state::image_visible;
use boira_core::{Draft, Refusal, State};
use boira_model::*;
use boira_store::Snapshot;
use std::borrow::Cow;
use std::sync::Arc;

static LISTING: Listing = Listing {
    ids: Some(Ids {
        member: "ImageIds",
        kind: &IMAGE,
        set: Some("imagesSet"),
    }),
    filters: &[
        "architecture",
        "block-device-mapping.delete-on-termination",
        "block-device-mapping.device-name",
        "block-device-mapping.encrypted",
        "block-device-mapping.snapshot-id",
        "block-device-mapping.volume-size",
        "block-device-mapping.volume-type",
        "boot-mode",
        "creation-date",
        "description",
        "ena-support",
        "free-tier-eligible",
        "hypervisor",
        "image-allowed",
        "image-id",
        "image-type",
        "image-watermark.source-image-creation-time",
        "image-watermark.source-image-id",
        "image-watermark.source-image-region",
        "image-watermark.watermark-creation-time",
        "image-watermark.watermark-key",
        "instance-type-specification.supported-instance-type",
        "instance-type-specification.unsupported-instance-type",
        "is-public",
        "kernel-id",
        "manifest-location",
        "name",
        "owner-alias",
        "owner-id",
        "platform",
        "product-code",
        "product-code.type",
        "public-ssm-parameter-name",
        "ramdisk-id",
        "root-device-name",
        "root-device-type",
        "scan-result.critical-fix-available-since",
        "scan-result.finding-scan-date",
        "scan-result.high-fix-available-since",
        "scan-result.highest-finding-severity-label",
        "scan-result.informational-fix-available-since",
        "scan-result.low-fix-available-since",
        "scan-result.medium-fix-available-since",
        "source-image-id",
        "source-image-region",
        "source-instance-id",
        "sriov-net-support",
        "state",
        "state-reason-code",
        "state-reason-message",
        "virtualization-type",
    ],
    tagged: true,
    page: PAGE,
};

pub const BOOT_MODE: &str = "legacy-bios";

pub fn describe(call: &Call, snapshot: &Arc<Snapshot>) -> Outcome {
    let state = &snapshot.state;
    let more = [
        "ExecutableUsers",
        "IncludeDeprecated",
        "IncludeDisabled",
        "Owners",
    ];
    let ask = LISTING.ask_with(call, state, &more)?;
    let owners = call.strings("Owners");
    let owners = owners
        .iter()
        .map(|text| Owner::parse(text))
        .collect::<Result<Vec<_>, _>>()?;
    let users = call.strings("ExecutableUsers");
    let users = users
        .iter()
        .map(|text| User::parse(text))
        .collect::<Result<Vec<_>, _>>()?;
    let all = !ask.ids().is_empty() || call.request.bool("IncludeDeprecated") == Some(true);
    let caller = &call.account;
    let rows = ask.select(
        state
            .images
            .values()
            .filter(|row| image_visible(row, caller))
            .cloned(),
        |id| state.image(caller, id).cloned(),
        |row| row.id.as_str(),
        |row| {
            (all || row.owner == *caller || !is_deprecated(row, call.now))
                && (owners.is_empty() || owners.iter().any(|owner| owner.has(row, caller)))
                && (users.is_empty() || users.iter().any(|user| user.may(row, caller)))
                && ask
                    .filters
                    .matches(&tags(row, caller), |name, test| matches(row, name, test))
        },
    )?;
    ask.list("Images", rows, |call, row| Value::from(value(call, &row)))
}

fn is_deprecated(row: &Image, now: Wall) -> bool {
    row.deprecated.is_some_and(|at| at <= now)
}

/// Tags are for who has set them ("Tag your Amazon EC2 resources"), but for what the cloud's own images say
/// of themselves, as which of them to take.
fn tags<'a>(row: &'a Image, caller: &AccountId) -> Cow<'a, Tags> {
    if row.owner == *caller {
        return Cow::Borrowed(&row.tags);
    }
    let said = row
        .tags
        .iter()
        .filter(|(key, _)| row.alias.is_some() && key.starts_with("boira:"));
    let own = row.tags_of_others.get(caller).into_iter().flatten();
    let all = said.chain(own);
    Cow::Owned(
        all.map(|(key, value)| (key.clone(), value.clone()))
            .collect(),
    )
}

/// A value of the parameter `Owner`.
enum Owner<'a> {
    Myself,
    Alias(&'a str),
    Account(&'a str),
}

impl<'a> Owner<'a> {
    fn parse(text: &'a str) -> Result<Self, ApiError> {
        match text {
            "self" => Ok(Self::Myself),
            "amazon" | "aws-backup-vault" | "aws-marketplace" | "microsoft" => {
                Ok(Self::Alias(text))
            }
            _ => account_number(text).map(Self::Account),
        }
    }

    fn has(&self, row: &Image, caller: &AccountId) -> bool {
        match self {
            Self::Myself => row.owner == *caller,
            Self::Alias(alias) => row.alias.as_deref() == Some(alias),
            Self::Account(account) => row.owner.as_str() == *account,
        }
    }
}

/// A value of the parameter `ExecutableBy`: who was given a launch permission explicitly.
enum User<'a> {
    Everyone,
    Myself,
    Account(&'a str),
}

impl<'a> User<'a> {
    fn parse(text: &'a str) -> Result<Self, ApiError> {
        match text {
            "all" => Ok(Self::Everyone),
            "self" => Ok(Self::Myself),
            _ => account_number(text).map(Self::Account),
        }
    }

    fn may(&self, row: &Image, caller: &AccountId) -> bool {
        match self {
            Self::Everyone => row.public,
            Self::Myself => row.launch_accounts.contains(caller),
            // Whom an owner lets launch an image is his own business.
            Self::Account(account) => {
                (row.owner == *caller || caller.as_str() == *account)
                    && row.launch_accounts.contains(*account)
            }
        }
    }
}

fn account_number(text: &str) -> Result<&str, ApiError> {
    if text.len() == 12 && text.bytes().all(|byte| byte.is_ascii_digit()) {
        return Ok(text);
    }
    let shown = shown(text);
    Err(ApiError::new(
        "InvalidUserID.Malformed",
        format!("Invalid user id: \"{shown}\""),
    ))
}

fn matches(row: &Image, name: &str, test: &dyn Fn(&str) -> bool) -> bool {
    match name {
        "architecture" => test(&row.architecture),
        "block-device-mapping.delete-on-termination" => test("true"),
        "block-device-mapping.device-name" | "root-device-name" => test(&row.root_device),
        "block-device-mapping.encrypted" | "ena-support" | "free-tier-eligible" => test("false"),
        "block-device-mapping.volume-size" => test(&size_gib(row).to_string()),
        "block-device-mapping.volume-type" => test(volumes::TYPE),
        "boot-mode" => test(BOOT_MODE),
        "creation-date" => test(&format_ms(row.created.0)),
        "description" => test(&row.description),
        "hypervisor" => test("xen"),
        "image-allowed" => test("true"),
        "image-id" => test(row.id.as_str()),
        "image-type" => test("machine"),
        "is-public" => test(if row.public { "true" } else { "false" }),
        "manifest-location" => test(&location(row)),
        "name" => test(&row.name),
        "owner-alias" => row.alias.as_deref().is_some_and(test),
        "owner-id" => test(row.owner.as_str()),
        "root-device-type" => test("ebs"),
        "state" => test("available"),
        "virtualization-type" => test("hvm"),
        // What no image of Boira has: product codes, sources, watermarks, scans, a platform other
        // than Linux.
        _ => false,
    }
}

fn location(row: &Image) -> String {
    format!(
        "{}/{}",
        row.alias.as_deref().unwrap_or(row.owner.as_str()),
        row.name
    )
}

/// What a root volume of the image has at least.
fn size_gib(row: &Image) -> i64 {
    volumes::gib(row.virtual_bytes.max(row.min_disk_bytes))
}

fn value(call: &Call, row: &Image) -> out::Image {
    let tags = tags(row, &call.account);
    let is_own = row.owner == call.account;
    out::Image::new()
        .architecture(row.architecture.clone())
        .block_device_mappings(mappings(row))
        .boot_mode(BOOT_MODE)
        .creation_date(format_ms(row.created.0))
        .deprecation_time(row.deprecated.map(|at| format_ms(at.0)))
        .deregistration_protection(is_own.then(|| protection(row)))
        .description((!row.description.is_empty()).then(|| row.description.clone()))
        .ena_support(false)
        .free_tier_eligible(false)
        .hypervisor("xen")
        .image_allowed(true)
        .image_id(row.id.to_string())
        .image_location(location(row))
        .image_owner_alias(row.alias.clone())
        .image_type("machine")
        .name(row.name.clone())
        .owner_id(row.owner.to_string())
        .platform_details("Linux/UNIX")
        .public(row.public)
        .root_device_name(row.root_device.clone())
        .root_device_type("ebs")
        .state("available")
        .tags(instance_value::tags(&tags))
        .usage_operation("RunInstances")
        .virtualization_type("hvm")
}

fn mappings(row: &Image) -> Vec<out::BlockDeviceMapping> {
    let ebs = out::EbsBlockDevice::new()
        .delete_on_termination(true)
        .encrypted(false)
        .volume_size(size_gib(row))
        .volume_type(volumes::TYPE);
    vec![
        out::BlockDeviceMapping::new()
            .device_name(row.root_device.clone())
            .ebs(ebs),
    ]
}

fn protection(row: &Image) -> &'static str {
    match row.deregistration_protection {
        true => "enabled-without-cooldown",
        false => "disabled",
    }
}

/// The named image, for its owner; others who see it may not ask for more or change it.
fn own<'a>(call: &Call, state: &'a State) -> Result<&'a Arc<Image>, ApiError> {
    let id = IMAGE.validate(call.request.str("ImageId").unwrap_or_default())?;
    let row = state
        .image(&call.account, id)
        .ok_or_else(|| IMAGE.not_found(&[id]))?;
    match row.owner == call.account {
        true => Ok(row),
        false => Err(ApiError::new(
            "AuthFailure",
            format!("Not authorized for image:{id}"),
        )),
    }
}

pub fn describe_attribute(call: &Call, snapshot: &Arc<Snapshot>) -> Outcome {
    let row = own(call, &snapshot.state)?;
    let text = |text: &str| out::AttributeValue::new().value(text.to_owned());
    let none = out::AttributeValue::new;
    let answer = out::ImageAttribute::new().image_id(row.id.to_string());
    let answer = match call.request.str("Attribute").unwrap_or_default() {
        "description" if row.description.is_empty() => answer.description(none()),
        "description" => answer.description(text(&row.description)),
        "launchPermission" => answer.launch_permissions(permissions(row)),
        "blockDeviceMapping" => answer.block_device_mappings(mappings(row)),
        "bootMode" => answer.boot_mode(text(BOOT_MODE)),
        "deregistrationProtection" => answer.deregistration_protection(text(protection(row))),
        // Set for no image of Boira, which AWS answers by an empty element.
        "imdsSupport" => answer.imds_support(none()),
        "lastLaunchedTime" => answer.last_launched_time(none()),
        "kernel" => answer.kernel_id(none()),
        "productCodes" => answer.product_codes(Vec::<Value>::new()),
        "ramdisk" => answer.ramdisk_id(none()),
        "sriovNetSupport" => answer.sriov_net_support(none()),
        "tpmSupport" => answer.tpm_support(none()),
        "uefiData" => answer.uefi_data(none()),
        other => return Err(unsupported(other)),
    };
    Ok(Answer::Done(answer.into()))
}

fn permissions(row: &Image) -> Vec<out::LaunchPermission> {
    let everyone = row
        .public
        .then(|| out::LaunchPermission::new().group("all"));
    let accounts = row
        .launch_accounts
        .iter()
        .map(|id| out::LaunchPermission::new().user_id(id.to_string()));
    everyone.into_iter().chain(accounts).collect()
}

fn unsupported(attribute: &str) -> ApiError {
    let attribute = shown(attribute);
    ApiError::new(
        "UnsupportedOperation",
        format!("The image attribute {attribute} is not supported by this cloud."),
    )
}

pub fn modify_attribute(call: &Call, draft: &mut Draft) -> Outcome {
    let change = change(call)?;
    let id = own(call, &draft.state)?.id.clone();
    match change {
        Change::Description(text) => image::describe(draft, id.as_str(), &text),
        Change::Permissions { add, remove } => image::permit(draft, id.as_str(), &add, &remove),
    }
    .map_err(error)?;
    call.done()
}

enum Change {
    Description(String),
    Permissions {
        add: Vec<Grantee>,
        remove: Vec<Grantee>,
    },
}

/// The one change that a call may ask for, in the old flat form (`Attribute`, `Value`) or by its
/// own parameter.
fn change(call: &Call) -> Result<Change, ApiError> {
    call.honours(&[
        "Attribute",
        "Description",
        "ImageId",
        "LaunchPermission",
        "OperationType",
        "UserGroups",
        "UserIds",
        "Value",
    ])?;
    let request = &call.request;
    let description = request.structure("Description");
    let permission = request.structure("LaunchPermission");
    // Ansible asks for "Description ", with the capital and the blank.
    let attribute = request.str("Attribute").map(str::trim);
    let attribute = attribute.map(str::to_ascii_lowercase);
    match (attribute.as_deref(), description, permission) {
        (_, Some(_), Some(_)) => Err(ApiError::invalid_combination(
            "A call modifies one attribute: either description or launchPermission.",
        )),
        (None | Some("description"), Some(text), None) => {
            refuse_flat(
                request,
                &["OperationType", "UserGroups", "UserIds", "Value"],
            )?;
            Ok(Change::Description(
                text.str("Value").unwrap_or_default().to_owned(),
            ))
        }
        (Some("description"), None, None) => {
            refuse_flat(request, &["OperationType", "UserGroups", "UserIds"])?;
            let text = request.str("Value");
            let text = text.ok_or_else(|| ApiError::missing_parameter("Value"))?;
            Ok(Change::Description(text.to_owned()))
        }
        (None | Some("launchpermission"), None, Some(lists)) => {
            refuse_flat(
                request,
                &["OperationType", "UserGroups", "UserIds", "Value"],
            )?;
            Ok(Change::Permissions {
                add: grantees(lists.list("Add"))?,
                remove: grantees(lists.list("Remove"))?,
            })
        }
        (Some("launchpermission"), None, None) => {
            refuse_flat(request, &["Value"])?;
            flat_permissions(call)
        }
        (None, None, None) => Err(ApiError::missing_parameter("Attribute")),
        (Some(other), ..) => Err(unsupported(other)),
    }
}

/// Refuses parts of the flat form that would be without effect.
fn refuse_flat(request: &Struct, members: &[&str]) -> Result<(), ApiError> {
    match members.iter().find(|member| request.get(member).is_some()) {
        Some(member) => Err(ApiError::invalid_combination(format!(
            "The parameter {member} cannot be used to modify this attribute in this form."
        ))),
        None => Ok(()),
    }
}

fn flat_permissions(call: &Call) -> Result<Change, ApiError> {
    let mut list = Vec::new();
    for group in call.strings("UserGroups") {
        match group.as_str() {
            "all" => list.push(Grantee::Everyone),
            _ => return Err(bad_item("userGroup", &group)),
        }
    }
    for user in call.strings("UserIds") {
        list.push(grantee(&user)?);
    }
    if list.is_empty() {
        return Err(ApiError::missing_parameter("UserId or UserGroup"));
    }
    match call.request.str("OperationType") {
        Some("remove") => Ok(Change::Permissions {
            add: Vec::new(),
            remove: list,
        }),
        Some(_) => Ok(Change::Permissions {
            add: list,
            remove: Vec::new(),
        }),
        None => Err(ApiError::missing_parameter("OperationType")),
    }
}

fn grantees(list: &[Value]) -> Result<Vec<Grantee>, ApiError> {
    list.iter()
        .filter_map(Value::as_struct)
        .map(|item: &Struct| {
            honours(item, &["Group", "UserId"])?;
            match (item.str("Group"), item.str("UserId")) {
                (Some(_), None) => Ok(Grantee::Everyone),
                (None, Some(user)) => grantee(user),
                _ => Err(ApiError::invalid_combination(
                    "A launch permission names either a group or a user id.",
                )),
            }
        })
        .collect()
}

fn grantee(user: &str) -> Result<Grantee, ApiError> {
    match account_number(user) {
        Ok(number) => Ok(Grantee::Account(number.into())),
        Err(_) => Err(bad_item("userId", user)),
    }
}

fn bad_item(kind: &str, value: &str) -> ApiError {
    let value = shown(value);
    ApiError::new(
        "InvalidAMIAttributeItemValue",
        format!("Invalid attribute item value \"{value}\" for {kind} item type."),
    )
}

/// The core's refusals as those of images.
fn error(refusal: Refusal) -> ApiError {
    match refusal {
        Refusal::NotFound(Thing::Account, id) => bad_item("userId", &id),
        Refusal::Protected { id, .. } => ApiError::new(
            "OperationNotPermitted",
            format!(
                "The image '{id}' is protected against deregistration. Call DisableImageDeregistrationProtection and try again."
            ),
        ),
        other => refusals::error(other),
    }
}

pub fn reset_attribute(call: &Call, draft: &mut Draft) -> Outcome {
    let id = own(call, &draft.state)?.id.clone();
    image::reset_permissions(draft, id.as_str()).map_err(error)?;
    call.done()
}

pub fn deregister(call: &Call, draft: &mut Draft) -> Outcome {
    // DeleteAssociatedSnapshots has nothing to delete: images of Boira have no snapshots.
    let id = own(call, &draft.state)?.id.clone();
    image::deregister(draft, id.as_str()).map_err(error)?;
    call.done()
}

pub fn enable_protection(call: &Call, draft: &mut Draft) -> Outcome {
    if call.request.bool("WithCooldown") == Some(true) {
        return Err(ApiError::unsupported_parameter("WithCooldown"));
    }
    protect(call, draft, true)
}

pub fn disable_protection(call: &Call, draft: &mut Draft) -> Outcome {
    protect(call, draft, false)
}

fn protect(call: &Call, draft: &mut Draft, protected: bool) -> Outcome {
    let id = own(call, &draft.state)?.id.clone();
    image::protect(draft, id.as_str(), protected).map_err(error)?;
    // Unlike everywhere else, AWS's model has text here.
    Ok(Answer::Done(call.answer().with("Return", "true")))
}

/// Years ahead that a deprecation may be, for any image and for a public one.
const DEPRECATION_YEARS: [i64; 2] = [10, 2];

pub fn enable_deprecation(call: &Call, draft: &mut Draft) -> Outcome {
    let row = own(call, &draft.state)?;
    let (id, years) = (row.id.clone(), DEPRECATION_YEARS[usize::from(row.public)]);
    let at = call
        .request
        .get("DeprecateAt")
        .and_then(Value::as_timestamp_ms)
        .unwrap_or_default();
    if at <= call.now.0 {
        return Err(ApiError::invalid_parameter_value(
            "The deprecation time must be in the future.",
        ));
    }
    // A year as long as it gets, so that the same day of the year is still allowed.
    if at > call.now.0 + years * 366 * 24 * 60 * 60_000 {
        return Err(ApiError::invalid_parameter_value(format!(
            "The deprecation time may be up to {years} years in the future."
        )));
    }
    // EC2 rounds to the minute.
    let at = Wall((at + 30_000).div_euclid(60_000) * 60_000);
    image::deprecate(draft, id.as_str(), Some(at)).map_err(error)?;
    call.done()
}

pub fn disable_deprecation(call: &Call, draft: &mut Draft) -> Outcome {
    let id = own(call, &draft.state)?.id.clone();
    image::deprecate(draft, id.as_str(), None).map_err(error)?;
    call.done()
}

#[cfg(test)]
mod tests;
