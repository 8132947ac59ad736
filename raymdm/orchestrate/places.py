"""Places that a run's lost process left reserved on a cluster."""

import ray
from ray.core.generated.gcs_pb2 import PlacementGroupTableData
from ray.util import remove_placement_group
from ray.util.placement_group import PlacementGroup


def release() -> None:
    """Remove this job's placement groups whose creator was an actor that is dead.

    Ray Train's controller dies with the process that drives a run. Its own cleaner asks the dashboard whether it lives,
    and a local Ray has none: the places would stay reserved for nobody, and the run's next workers, or its scoring,
    might wait for ever.
    """
    job = ray.get_runtime_context().get_job_id()
    # no public call says who made a group
    for found in ray._private.state.state._connect_and_get_accessor().get_placement_group_table():
        group = PlacementGroupTableData.FromString(found)
        lost = group.creator_actor_dead and any(group.creator_actor_id.strip(b"\xff"))
        if lost and group.state != PlacementGroupTableData.REMOVED and group.creator_job_id.hex() == job:
            remove_placement_group(PlacementGroup(ray.PlacementGroupID(group.placement_group_id)))
