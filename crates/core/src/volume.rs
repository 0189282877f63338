//! Volumes that outlived their instance.

use crate::refusal::Thing;
use crate::{Draft, Kind, Refusal};
use boira_model::*;

/// Deletes a volume that nothing is attached to. The row goes when its host says that the file is
/// gone; until then it takes the host's space.
pub fn delete(draft: &mut Draft, owner: &AccountId, id: &str) -> Result<(), Refusal> {
    let row = draft
        .state
        .volume(owner, id)
        .filter(|row| !row.deleting)
        .cloned();
    let row = row.ok_or_else(|| Refusal::NotFound(Thing::Volume, id.into()))?;
    if let Some(attachment) = &row.attachment {
        return Err(Refusal::InUse(id.into(), attachment.instance.to_string()));
    }
    match row.host {
        None => draft.delete(Kind::Volume, id),
        Some(_) => draft.put(Volume {
            deleting: true,
            ..Volume::clone(&row)
        }),
    }
    Ok(())
}
