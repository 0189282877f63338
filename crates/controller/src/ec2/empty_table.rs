//! The kinds of which nothing can exist yet, with what AWS's model doesn't tell of them.

use super::empty::Missing::{self, Code, Kind};
use super::empty::Nothing;
use boira_api::id;

/// Sorted by action. Filters are those that AWS documents beside the members of the list's items, and
/// those that clients send without a word in the documentation: boto3 lists addresses by `domain`.
pub static TABLE: &[Nothing] = &[
    Nothing::new("DescribeAddressTransfers", ""),
    Nothing::new("DescribeAddresses", ""),
    Nothing::new("DescribeAddressesAttribute", ""),
    Nothing::new("DescribeAwsNetworkPerformanceMetricSubscriptions", ""),
    Nothing::new(
        "DescribeBundleTasks",
        "error-code error-message s3-bucket s3-prefix",
    ),
    Nothing::new("DescribeByoipCidrs", ""),
    Nothing::new("DescribeCapacityBlockExtensionHistory", ""),
    Nothing::new("DescribeCapacityBlockExtensionOfferings", ""),
    Nothing::new("DescribeCapacityBlockOfferings", ""),
    Nothing::new("DescribeCapacityBlockStatus", ""),
    Nothing::new("DescribeCapacityBlocks", ""),
    Nothing::new("DescribeCapacityManagerDataExports", ""),
    Nothing::new(
        "DescribeCapacityReservationBillingRequests",
        "unused-reservation-billing-owner",
    ),
    Nothing::new("DescribeCapacityReservationCancellationQuotes", ""),
    Nothing::new("DescribeCapacityReservationDateChangeQuotes", ""),
    Nothing::new("DescribeCapacityReservationFleets", ""),
    Nothing::new("DescribeCapacityReservationTopology", ""),
    Nothing::new("DescribeCapacityReservations", ""),
    Nothing::new("DescribeCarrierGateways", ""),
    Nothing::new("DescribeClassicLinkInstances", "group-id"),
    Nothing::new("DescribeClientVpnAuthorizationRules", ""),
    Nothing::new("DescribeClientVpnConnections", ""),
    Nothing::new("DescribeClientVpnEndpoints", "endpoint-id"),
    Nothing::new("DescribeClientVpnRoutes", ""),
    Nothing::new("DescribeClientVpnTargetNetworks", ""),
    Nothing::new(
        "DescribeCoipPools",
        "coip-pool.local-gateway-route-table-id coip-pool.pool-id",
    ),
    Nothing::new("DescribeConversionTasks", ""),
    Nothing::new("DescribeCustomerGateways", ""),
    Nothing::new("DescribeDeclarativePoliciesReports", ""),
    Nothing::new("DescribeEgressOnlyInternetGateways", ""),
    Nothing::new("DescribeElasticGpus", "elastic-gpu-health"),
    Nothing::new("DescribeExportImageTasks", "task-state"),
    Nothing::new("DescribeExportTasks", ""),
    Nothing::new("DescribeFastLaunchImages", ""),
    Nothing::new("DescribeFastSnapshotRestores", ""),
    Nothing::new("DescribeFleetHistory", ""),
    Nothing::new("DescribeFleetInstances", ""),
    Nothing::new("DescribeFleets", ""),
    Nothing::new("DescribeFlowLogs", "deliver-log-status"),
    Nothing::new("DescribeFpgaImageAttribute", ""),
    Nothing::new("DescribeFpgaImages", "product-code state"),
    Nothing::new("DescribeHostReservationOfferings", ""),
    Nothing::new("DescribeHostReservations", "").paged(5, 500),
    Nothing::new("DescribeHosts", "instance-type").paged(5, 500),
    Nothing::new("DescribeIamInstanceProfileAssociations", ""),
    Nothing::new("DescribeImageUsageReportEntries", "creation-time"),
    Nothing::new("DescribeImageUsageReports", ""),
    Nothing::new("DescribeImportImageTasks", "task-state"),
    Nothing::new("DescribeImportSnapshotTasks", "task-state"),
    Nothing::new("DescribeInstanceConnectEndpoints", ""),
    Nothing::new(
        "DescribeInstanceEventWindows",
        "dedicated-host-id event-window-name instance-id instance-tag instance-tag-key \
            instance-tag-value",
    ),
    Nothing::new(
        "DescribeInstanceSqlHaHistoryStates",
        "haStatus sqlServerLicenseUsage",
    ),
    Nothing::new(
        "DescribeInstanceSqlHaStates",
        "haStatus sqlServerLicenseUsage",
    ),
    Nothing::new("DescribeInstanceTopology", ""),
    Nothing::new("DescribeIpamByoasn", ""),
    Nothing::new("DescribeIpamExternalResourceVerificationTokens", ""),
    Nothing::new("DescribeIpamInternetRegistryAssociations", ""),
    Nothing::new("DescribeIpamPolicies", ""),
    Nothing::new("DescribeIpamPoolAllocations", ""),
    Nothing::new("DescribeIpamPools", ""),
    Nothing::new("DescribeIpamPrefixListResolverTargets", ""),
    Nothing::new("DescribeIpamPrefixListResolvers", ""),
    Nothing::new("DescribeIpamResourceDiscoveries", ""),
    Nothing::new("DescribeIpamResourceDiscoveryAssociations", ""),
    Nothing::new("DescribeIpamScopes", ""),
    Nothing::new("DescribeIpams", ""),
    Nothing::new("DescribeIpv6Pools", ""),
    Nothing::new(
        "DescribeLaunchTemplateVersions",
        "ebs-optimized host-resource-group-arn http-endpoint http-protocol-ipv4 \
            http-tokens iam-instance-profile image-id instance-type is-default-version kernel-id \
            license-configuration-arn network-card-index ram-disk-id",
    )
    .paged(1, 200),
    Nothing::new("DescribeLaunchTemplates", ""),
    Nothing::new(
        "DescribeLocalGatewayRouteTableVirtualInterfaceGroupAssociations",
        "local-gateway-route-table-virtual-interface-group-id",
    ),
    Nothing::new("DescribeLocalGatewayRouteTableVpcAssociations", ""),
    Nothing::new("DescribeLocalGatewayRouteTables", ""),
    Nothing::new(
        "DescribeLocalGatewayVirtualInterfaceGroups",
        "local-gateway-virtual-interface-id",
    ),
    Nothing::new("DescribeLocalGatewayVirtualInterfaces", ""),
    Nothing::new("DescribeLocalGateways", ""),
    Nothing::new("DescribeLockedSnapshots", ""),
    Nothing::new("DescribeMacHosts", "availability-zone instance-type"),
    Nothing::new(
        "DescribeMacModificationTasks",
        "mac-system-integrity-protection-configuration.sip-status",
    ),
    Nothing::new("DescribeManagedPrefixLists", "")
        .named(&[("PrefixListIds", Code("InvalidPrefixListID.NotFound"))]),
    Nothing::new("DescribeMovingAddresses", "moving-status"),
    Nothing::new("DescribeNatGateways", ""),
    Nothing::new("DescribeNetworkInsightsAccessScopeAnalyses", ""),
    Nothing::new("DescribeNetworkInsightsAccessScopes", ""),
    Nothing::new("DescribeNetworkInsightsAnalyses", ""),
    Nothing::new("DescribeNetworkInsightsPaths", ""),
    Nothing::new(
        "DescribeNetworkInterfacePermissions",
        "network-interface-permission.aws-account-id \
            network-interface-permission.aws-service network-interface-permission.network-interface-id \
            network-interface-permission.network-interface-permission-id \
            network-interface-permission.permission",
    ),
    Nothing::new(
        "DescribeNetworkingFlexCostAllocationPolicies",
        "showback-enabled",
    ),
    Nothing::new(
        "DescribeNetworkingFlexCostAllocationPolicyAssociations",
        "resource-id",
    ),
    Nothing::new(
        "DescribeOutpostLags",
        "configuration-state local-address outpost-id peer-address peer-bgp-asn \
            service-link-virtual-interface-arn service-link-virtual-interface-id vlan",
    ),
    Nothing::new("DescribePlacementGroups", ""),
    Nothing::new("DescribePrefixLists", ""),
    Nothing::new("DescribePublicIpv4Pools", "")
        .named(&[("PoolIds", Code("InvalidPublicIpv4PoolID.NotFound"))]),
    Nothing::new("DescribeReplaceRootVolumeTasks", ""),
    Nothing::new("DescribeReservedInstances", ""),
    Nothing::new("DescribeReservedInstancesListings", ""),
    Nothing::new(
        "DescribeReservedInstancesModifications",
        "modification-result.reserved-instances-id \
            modification-result.target-configuration.availability-zone \
            modification-result.target-configuration.availability-zone-id \
            modification-result.target-configuration.instance-count \
            modification-result.target-configuration.instance-type reserved-instances-id",
    ),
    Nothing::new("DescribeReservedInstancesOfferings", ""),
    Nothing::new("DescribeRouteServerEndpoints", ""),
    Nothing::new("DescribeRouteServerPeers", ""),
    Nothing::new("DescribeRouteServers", ""),
    Nothing::new("DescribeScheduledInstanceAvailability", ""),
    Nothing::new("DescribeScheduledInstances", "").paged(5, 300),
    Nothing::new(
        "DescribeSecondaryInterfaces",
        "attachment.attachment-id attachment.instance-id attachment.instance-owner-id \
            attachment.status private-ipv4-addresses.private-ip-address",
    ),
    Nothing::new(
        "DescribeSecondaryNetworks",
        "ipv4-cidr-block-association.association-id \
            ipv4-cidr-block-association.cidr-block ipv4-cidr-block-association.state",
    ),
    Nothing::new(
        "DescribeSecondarySubnets",
        "ipv4-cidr-block-association.association-id \
            ipv4-cidr-block-association.cidr-block ipv4-cidr-block-association.state",
    ),
    Nothing::new("DescribeSecurityGroupReferences", ""),
    Nothing::new("DescribeSecurityGroupVpcAssociations", ""),
    Nothing::new(
        "DescribeServiceLinkVirtualInterfaces",
        "local-gateway-virtual-interface-id state",
    ),
    Nothing::new("DescribeSnapshotAttribute", ""),
    Nothing::new("DescribeSnapshotTierStatus", "last-tiering-operation"),
    Nothing::new("DescribeSnapshots", "status"),
    Nothing::new("DescribeSpotFleetInstances", ""),
    Nothing::new("DescribeSpotFleetRequestHistory", ""),
    Nothing::new("DescribeSpotFleetRequests", ""),
    Nothing::new(
        "DescribeSpotInstanceRequests",
        "fault-code fault-message launch.block-device-mapping.delete-on-termination \
            launch.block-device-mapping.device-name launch.block-device-mapping.snapshot-id \
            launch.block-device-mapping.volume-size launch.block-device-mapping.volume-type \
            launch.group-id launch.group-name launch.image-id launch.instance-type \
            launch.kernel-id launch.key-name launch.monitoring-enabled launch.ramdisk-id \
            network-interface.addresses.primary network-interface.delete-on-termination \
            network-interface.description network-interface.device-index \
            network-interface.group-id network-interface.network-interface-id \
            network-interface.private-ip-address network-interface.subnet-id status-code \
            status-message",
    ),
    Nothing::new("DescribeSpotPriceHistory", ""),
    Nothing::new("DescribeStaleSecurityGroups", ""),
    Nothing::new("DescribeStoreImageTasks", "task-state"),
    Nothing::new("DescribeTrafficMirrorFilterRules", ""),
    Nothing::new("DescribeTrafficMirrorFilters", ""),
    Nothing::new("DescribeTrafficMirrorSessions", ""),
    Nothing::new("DescribeTrafficMirrorTargets", ""),
    Nothing::new(
        "DescribeTransitGatewayAttachments",
        "association.state association.transit-gateway-route-table-id",
    ),
    Nothing::new("DescribeTransitGatewayConnectPeers", ""),
    Nothing::new("DescribeTransitGatewayConnects", "options.protocol"),
    Nothing::new("DescribeTransitGatewayMeteringPolicies", ""),
    Nothing::new("DescribeTransitGatewayMulticastDomains", ""),
    Nothing::new(
        "DescribeTransitGatewayNetworkFunctionAttachments",
        "service-name",
    ),
    Nothing::new(
        "DescribeTransitGatewayPeeringAttachments",
        "local-owner-id remote-owner-id transit-gateway-id",
    ),
    Nothing::new("DescribeTransitGatewayPolicyTables", ""),
    Nothing::new("DescribeTransitGatewayRouteTableAnnouncements", ""),
    Nothing::new("DescribeTransitGatewayRouteTables", ""),
    Nothing::new("DescribeTransitGatewayVpcAttachments", ""),
    Nothing::new(
        "DescribeTransitGateways",
        "options.amazon-side-asn options.association-default-route-table-id \
            options.auto-accept-shared-attachments options.default-route-table-association \
            options.default-route-table-propagation options.dns-support \
            options.propagation-default-route-table-id options.vpn-ecmp-support",
    ),
    Nothing::new("DescribeTrunkInterfaceAssociations", ""),
    Nothing::new("DescribeVerifiedAccessEndpoints", ""),
    Nothing::new("DescribeVerifiedAccessGroups", ""),
    Nothing::new("DescribeVerifiedAccessInstanceLoggingConfigurations", ""),
    Nothing::new("DescribeVerifiedAccessInstances", ""),
    Nothing::new("DescribeVerifiedAccessTrustProviders", ""),
    Nothing::new("DescribeVpcBlockPublicAccessExclusions", ""),
    Nothing::new("DescribeVpcClassicLink", "is-classic-link-enabled"),
    Nothing::new("DescribeVpcClassicLinkDnsSupport", ""),
    Nothing::new("DescribeVpcEncryptionControls", ""),
    Nothing::new(
        "DescribeVpcEndpointAssociations",
        "associated-resource-id association-id",
    ),
    Nothing::new("DescribeVpcEndpointConnectionNotifications", ""),
    Nothing::new("DescribeVpcEndpointConnections", "").paged(5, 1000),
    Nothing::new(
        "DescribeVpcEndpointServiceConfigurations",
        "supported-ip-address-types",
    )
    .paged(5, 1000),
    Nothing::new("DescribeVpcEndpointServicePermissions", ""),
    Nothing::new(
        "DescribeVpcEndpointServices",
        "service-type supported-ip-address-types",
    ),
    Nothing::new("DescribeVpcEndpoints", "vpc-endpoint-state"),
    Nothing::new(
        "DescribeVpcPeeringConnections",
        "accepter-vpc-info.cidr-block accepter-vpc-info.owner-id accepter-vpc-info.vpc-id \
            requester-vpc-info.cidr-block requester-vpc-info.owner-id \
            requester-vpc-info.vpc-id status-code status-message",
    ),
    Nothing::new("DescribeVpnConcentrators", ""),
    Nothing::new(
        "DescribeVpnConnections",
        "bgp-asn option.static-routes-only route.destination-cidr-block",
    ),
    Nothing::new("DescribeVpnGateways", "attachment.state attachment.vpc-id"),
];

/// Parameters that name things, where their kind has a form, or AWS a code that doesn't follow from
/// the parameter's name. Codes are those that AWS's documentation and Terraform's provider know.
pub static NAMED: &[(&str, Missing)] = &[
    ("AllocationIds", Kind(&id::ALLOCATION)),
    ("AssociationIds", Kind(&id::INSTANCE_PROFILE_ASSOCIATION)),
    ("BundleIds", Code("InvalidBundleID.NotFound")),
    (
        "CarrierGatewayIds",
        Code("InvalidCarrierGatewayID.NotFound"),
    ),
    (
        "ConnectionNotificationId",
        Code("InvalidConnectionNotification"),
    ),
    ("ConversionTaskIds", Code("InvalidConversionTaskId")),
    (
        "CustomerGatewayIds",
        Code("InvalidCustomerGatewayID.NotFound"),
    ),
    ("ExportImageTaskIds", Code("InvalidExportTaskID.NotFound")),
    ("ExportTaskIds", Code("InvalidExportTaskID.NotFound")),
    ("FpgaImageId", Code("InvalidFpgaImageID.NotFound")),
    ("FpgaImageIds", Code("InvalidFpgaImageID.NotFound")),
    ("GroupIds", Kind(&id::PLACEMENT_GROUP)),
    ("GroupNames", Code("InvalidPlacementGroup.Unknown")),
    ("HostIds", Kind(&id::DEDICATED_HOST)),
    (
        "HostReservationIdSet",
        Code("InvalidHostReservationId.NotFound"),
    ),
    ("ImportTaskIds", Code("InvalidConversionTaskId")),
    (
        "InstanceEventWindowIds",
        Code("InvalidInstanceEventWindowID.NotFound"),
    ),
    ("LaunchTemplateId", Kind(&id::LAUNCH_TEMPLATE)),
    ("LaunchTemplateIds", Kind(&id::LAUNCH_TEMPLATE)),
    (
        "LaunchTemplateName",
        Code("InvalidLaunchTemplateName.NotFoundException"),
    ),
    (
        "LaunchTemplateNames",
        Code("InvalidLaunchTemplateName.NotFoundException"),
    ),
    ("NatGatewayIds", Kind(&id::NAT_GATEWAY)),
    (
        "NetworkInterfacePermissionIds",
        Code("InvalidPermissionID.NotFound"),
    ),
    ("PoolIds", Code("InvalidPoolID.NotFound")),
    ("PrefixListIds", Kind(&id::PREFIX_LIST)),
    ("PublicIps", Code("InvalidAddress.NotFound")),
    ("ReservedInstancesIds", Code("InvalidReservedInstancesId")),
    (
        "ReservedInstancesModificationIds",
        Code("InvalidReservedInstancesModificationId"),
    ),
    (
        "ReservedInstancesOfferingIds",
        Code("InvalidReservedInstancesOfferingId"),
    ),
    ("ServiceId", Code("InvalidVpcEndpointServiceId.NotFound")),
    ("ServiceIds", Code("InvalidVpcEndpointServiceId.NotFound")),
    ("ServiceNames", Code("InvalidServiceName")),
    ("SnapshotId", Kind(&id::SNAPSHOT)),
    ("SnapshotIds", Kind(&id::SNAPSHOT)),
    ("SpotInstanceRequestIds", Kind(&id::SPOT_REQUEST)),
    (
        "TransitGatewayAttachmentIds",
        Code("InvalidTransitGatewayAttachmentID.NotFound"),
    ),
    (
        "TransitGatewayConnectPeerIds",
        Code("InvalidTransitGatewayConnectPeerID.NotFound"),
    ),
    (
        "TransitGatewayIds",
        Code("InvalidTransitGatewayID.NotFound"),
    ),
    (
        "TransitGatewayRouteTableIds",
        Code("InvalidRouteTableID.NotFound"),
    ),
    ("VpcEndpointIds", Kind(&id::VPC_ENDPOINT)),
    ("VpcPeeringConnectionIds", Kind(&id::VPC_PEERING_CONNECTION)),
    ("VpnConnectionIds", Code("InvalidVpnConnectionID.NotFound")),
    ("VpnGatewayIds", Code("InvalidVpnGatewayID.NotFound")),
];
