//! The kinds of which nothing can exist yet, with what AWS documents for their Describe.

use super::empty::Missing::{Code, Kind};
use super::empty::Nothing;
use boira_api::id;

/// Sorted by action. Codes for ids are those that AWS's documentation and Terraform's provider know.
pub static TABLE: &[Nothing] = &[
    Nothing::new("DescribeAddressTransfers", "AddressTransfers")
        .named(&[("AllocationIds", Kind(&id::ALLOCATION))])
        .paged(5, 1000),
    Nothing::new("DescribeAddresses", "Addresses")
        .named(&[
            ("AllocationIds", Kind(&id::ALLOCATION)),
            ("PublicIps", Code("InvalidAddress.NotFound", "address")),
        ])
        .filtered(
            true,
            "allocation-id association-id instance-id network-border-group \
             network-interface-id network-interface-owner-id private-ip-address \
             public-ip",
        ),
    Nothing::new("DescribeAddressesAttribute", "Addresses")
        .named(&[("AllocationIds", Kind(&id::ALLOCATION))])
        .paged(1, 1000)
        .beside(&["Attribute"]),
    Nothing::new("DescribeBundleTasks", "BundleTasks")
        .named(&[(
            "BundleIds",
            Code("InvalidBundleID.NotFound", "bundle task ID"),
        )])
        .filtered(
            false,
            "bundle-id error-code error-message instance-id progress s3-bucket \
             s3-prefix start-time state update-time",
        ),
    Nothing::new("DescribeByoipCidrs", "ByoipCidrs").paged(1, 100),
    Nothing::new("DescribeCapacityReservations", "CapacityReservations")
        .named(&[(
            "CapacityReservationIds",
            Code(
                "InvalidCapacityReservationId.NotFound",
                "capacity reservation ID",
            ),
        )])
        .filtered(
            false,
            "availability-zone end-date end-date-type instance-match-criteria \
             instance-platform instance-type outpost-arn owner-id placement-group-arn \
             start-date state tenancy",
        )
        .paged(1, 1000),
    Nothing::new("DescribeCarrierGateways", "CarrierGateways")
        .named(&[(
            "CarrierGatewayIds",
            Code("InvalidCarrierGatewayID.NotFound", "carrier gateway ID"),
        )])
        .filtered(true, "carrier-gateway-id owner-id state vpc-id")
        .paged(5, 1000),
    Nothing::new("DescribeClientVpnEndpoints", "ClientVpnEndpoints")
        .named(&[(
            "ClientVpnEndpointIds",
            Code(
                "InvalidClientVpnEndpointId.NotFound",
                "Client VPN endpoint ID",
            ),
        )])
        .filtered(false, "endpoint-id transport-protocol")
        .paged(5, 1000),
    Nothing::new("DescribeConversionTasks", "ConversionTasks").named(&[(
        "ConversionTaskIds",
        Code("InvalidConversionTaskId", "conversion task ID"),
    )]),
    Nothing::new("DescribeCustomerGateways", "CustomerGateways")
        .named(&[(
            "CustomerGatewayIds",
            Code("InvalidCustomerGatewayID.NotFound", "customerGateway ID"),
        )])
        .filtered(true, "bgp-asn customer-gateway-id ip-address state type"),
    Nothing::new(
        "DescribeEgressOnlyInternetGateways",
        "EgressOnlyInternetGateways",
    )
    .named(&[(
        "EgressOnlyInternetGatewayIds",
        Code(
            "InvalidEgressOnlyInternetGatewayId.NotFound",
            "egress-only internet gateway ID",
        ),
    )])
    .filtered(true, "")
    .paged(5, 255),
    Nothing::new("DescribeExportImageTasks", "ExportImageTasks")
        .named(&[(
            "ExportImageTaskIds",
            Code("InvalidExportTaskID.NotFound", "export task ID"),
        )])
        .filtered(false, "task-state")
        .paged(1, 500),
    Nothing::new("DescribeExportTasks", "ExportTasks")
        .named(&[(
            "ExportTaskIds",
            Code("InvalidExportTaskID.NotFound", "export task ID"),
        )])
        .filtered(false, ""),
    Nothing::new("DescribeFastSnapshotRestores", "FastSnapshotRestores")
        .filtered(
            false,
            "availability-zone availability-zone-id owner-id snapshot-id state",
        )
        .paged(0, 200),
    Nothing::new("DescribeFleets", "Fleets")
        .named(&[("FleetIds", Code("InvalidFleetId.NotFound", "fleet ID"))])
        .filtered(
            false,
            "activity-status excess-capacity-termination-policy fleet-state \
             replace-unhealthy-instances type",
        )
        .paged(1, 1000),
    Nothing::new("DescribeFlowLogs", "FlowLogs")
        .named(&[(
            "FlowLogIds",
            Code("InvalidFlowLogId.NotFound", "flow log ID"),
        )])
        .filtered(
            true,
            "deliver-log-status flow-log-id log-destination-type log-group-name \
             resource-id traffic-type",
        )
        .paged(1, 1000),
    Nothing::new("DescribeHostReservations", "HostReservationSet")
        .named(&[(
            "HostReservationIdSet",
            Code("InvalidHostReservationId.NotFound", "host reservation ID"),
        )])
        .filtered(true, "instance-family payment-option state")
        .paged(5, 500),
    Nothing::new("DescribeHosts", "Hosts")
        .named(&[("HostIds", Kind(&id::DEDICATED_HOST))])
        .filtered(
            true,
            "auto-placement availability-zone client-token host-reservation-id \
             instance-type state",
        )
        .paged(5, 500),
    Nothing::new(
        "DescribeIamInstanceProfileAssociations",
        "IamInstanceProfileAssociations",
    )
    .named(&[("AssociationIds", Kind(&id::INSTANCE_PROFILE_ASSOCIATION))])
    .filtered(false, "instance-id state")
    .paged(5, 1000),
    Nothing::new("DescribeImportImageTasks", "ImportImageTasks")
        .named(&[(
            "ImportTaskIds",
            Code("InvalidConversionTaskId", "import task ID"),
        )])
        .filtered(false, "task-state")
        .paged(1, 1000),
    Nothing::new("DescribeImportSnapshotTasks", "ImportSnapshotTasks")
        .named(&[(
            "ImportTaskIds",
            Code("InvalidConversionTaskId", "import task ID"),
        )])
        .filtered(false, "task-state")
        .paged(1, 1000),
    Nothing::new(
        "DescribeInstanceConnectEndpoints",
        "InstanceConnectEndpoints",
    )
    .named(&[(
        "InstanceConnectEndpointIds",
        Code(
            "InvalidInstanceConnectEndpointId.NotFound",
            "instance connect endpoint ID",
        ),
    )])
    .filtered(true, "instance-connect-endpoint-id state subnet-id vpc-id")
    .paged(1, 50),
    Nothing::new("DescribeInstanceEventWindows", "InstanceEventWindows")
        .named(&[(
            "InstanceEventWindowIds",
            Code(
                "InvalidInstanceEventWindowID.NotFound",
                "instance event window ID",
            ),
        )])
        .filtered(
            true,
            "dedicated-host-id event-window-name instance-id instance-tag \
             instance-tag-key instance-tag-value",
        )
        .paged(20, 500),
    Nothing::new("DescribeIpv6Pools", "Ipv6Pools")
        .named(&[("PoolIds", Code("InvalidPoolID.NotFound", "pool ID"))])
        .filtered(true, "")
        .paged(1, 1000),
    Nothing::new("DescribeLaunchTemplateVersions", "LaunchTemplateVersions")
        .named(&[
            ("LaunchTemplateId", Kind(&id::LAUNCH_TEMPLATE)),
            (
                "LaunchTemplateName",
                Code(
                    "InvalidLaunchTemplateName.NotFoundException",
                    "launch template name",
                ),
            ),
        ])
        .filtered(
            false,
            "create-time ebs-optimized host-resource-group-arn http-endpoint \
             http-protocol-ipv4 http-tokens iam-instance-profile image-id instance-type \
             is-default-version kernel-id license-configuration-arn network-card-index \
             ram-disk-id",
        )
        .paged(1, 200)
        .beside(&["Versions", "MinVersion", "MaxVersion", "ResolveAlias"]),
    Nothing::new("DescribeLaunchTemplates", "LaunchTemplates")
        .named(&[
            ("LaunchTemplateIds", Kind(&id::LAUNCH_TEMPLATE)),
            (
                "LaunchTemplateNames",
                Code(
                    "InvalidLaunchTemplateName.NotFoundException",
                    "launch template name",
                ),
            ),
        ])
        .filtered(true, "create-time launch-template-name")
        .paged(1, 200),
    Nothing::new("DescribeLockedSnapshots", "Snapshots")
        .named(&[("SnapshotIds", Kind(&id::SNAPSHOT))])
        .filtered(false, "lock-state")
        .paged(5, 1000),
    Nothing::new("DescribeManagedPrefixLists", "PrefixLists")
        .named(&[(
            "PrefixListIds",
            Code("InvalidPrefixListID.NotFound", "prefix list ID"),
        )])
        .filtered(false, "owner-id prefix-list-id prefix-list-name")
        .paged(1, 100),
    Nothing::new("DescribeMovingAddresses", "MovingAddressStatuses")
        .named(&[("PublicIps", Code("InvalidAddress.NotFound", "address"))])
        .filtered(false, "moving-status")
        .paged(5, 1000),
    Nothing::new("DescribeNatGateways", "NatGateways")
        .named(&[("NatGatewayIds", Kind(&id::NAT_GATEWAY))])
        .filtered(true, "nat-gateway-id state subnet-id vpc-id")
        .paged(5, 1000),
    Nothing::new(
        "DescribeNetworkInterfacePermissions",
        "NetworkInterfacePermissions",
    )
    .named(&[(
        "NetworkInterfacePermissionIds",
        Code(
            "InvalidPermissionID.NotFound",
            "network interface permission ID",
        ),
    )])
    .filtered(
        false,
        "network-interface-permission.aws-account-id \
             network-interface-permission.aws-service \
             network-interface-permission.network-interface-id \
             network-interface-permission.network-interface-permission-id \
             network-interface-permission.permission",
    )
    .paged(5, 255),
    Nothing::new("DescribePlacementGroups", "PlacementGroups")
        .named(&[
            ("GroupIds", Kind(&id::PLACEMENT_GROUP)),
            (
                "GroupNames",
                Code("InvalidPlacementGroup.Unknown", "placement group"),
            ),
        ])
        .filtered(true, "group-arn group-name spread-level state strategy"),
    Nothing::new("DescribePrefixLists", "PrefixLists")
        .named(&[("PrefixListIds", Kind(&id::PREFIX_LIST))])
        .filtered(false, "prefix-list-id prefix-list-name")
        .paged(1, 1000),
    Nothing::new("DescribePublicIpv4Pools", "PublicIpv4Pools")
        .named(&[(
            "PoolIds",
            Code("InvalidPublicIpv4PoolID.NotFound", "pool ID"),
        )])
        .filtered(true, "")
        .paged(1, 10),
    Nothing::new("DescribeReplaceRootVolumeTasks", "ReplaceRootVolumeTasks")
        .named(&[(
            "ReplaceRootVolumeTaskIds",
            Code(
                "InvalidReplaceRootVolumeTaskId.NotFound",
                "replace root volume task ID",
            ),
        )])
        .filtered(false, "instance-id")
        .paged(1, 50),
    Nothing::new("DescribeReservedInstances", "ReservedInstances")
        .named(&[(
            "ReservedInstancesIds",
            Code("InvalidReservedInstancesId", "reserved instances ID"),
        )])
        .filtered(
            true,
            "availability-zone availability-zone-id duration end fixed-price \
             instance-type product-description reserved-instances-id scope start state \
             usage-price",
        )
        .beside(&["OfferingClass", "OfferingType"]),
    Nothing::new(
        "DescribeReservedInstancesModifications",
        "ReservedInstancesModifications",
    )
    .named(&[(
        "ReservedInstancesModificationIds",
        Code(
            "InvalidReservedInstancesModificationId",
            "reserved instances modification ID",
        ),
    )])
    .filtered(
        false,
        "client-token create-date effective-date \
             modification-result.reserved-instances-id \
             modification-result.target-configuration.availability-zone \
             modification-result.target-configuration.availability-zone-id \
             modification-result.target-configuration.instance-count \
             modification-result.target-configuration.instance-type \
             reserved-instances-id reserved-instances-modification-id status \
             status-message update-date",
    ),
    Nothing::new(
        "DescribeReservedInstancesOfferings",
        "ReservedInstancesOfferings",
    )
    .named(&[(
        "ReservedInstancesOfferingIds",
        Code(
            "InvalidReservedInstancesOfferingId",
            "reserved instances offering ID",
        ),
    )])
    .filtered(
        false,
        "availability-zone availability-zone-id duration fixed-price instance-type \
             marketplace product-description reserved-instances-offering-id scope \
             usage-price",
    )
    .paged(1, 1000)
    .beside(&[
        "AvailabilityZone",
        "IncludeMarketplace",
        "InstanceType",
        "MaxDuration",
        "MaxInstanceCount",
        "MinDuration",
        "OfferingClass",
        "ProductDescription",
        "AvailabilityZoneId",
        "InstanceTenancy",
        "OfferingType",
    ]),
    Nothing::new("DescribeSnapshotAttribute", "CreateVolumePermissions")
        .named(&[("SnapshotId", Kind(&id::SNAPSHOT))])
        .beside(&["Attribute"]),
    Nothing::new("DescribeSnapshotTierStatus", "SnapshotTierStatuses")
        .filtered(false, "last-tiering-operation snapshot-id volume-id")
        .paged(1, 1000),
    Nothing::new("DescribeSnapshots", "Snapshots")
        .named(&[("SnapshotIds", Kind(&id::SNAPSHOT))])
        .filtered(
            true,
            "description encrypted owner-alias owner-id progress snapshot-id start-time \
             status storage-tier transfer-type volume-id volume-size",
        )
        .paged(1, 1000)
        .beside(&["OwnerIds", "RestorableByUserIds"]),
    Nothing::new("DescribeSpotFleetRequests", "SpotFleetRequestConfigs")
        .named(&[(
            "SpotFleetRequestIds",
            Code(
                "InvalidSpotFleetRequestId.NotFound",
                "spot fleet request ID",
            ),
        )])
        .paged(1, 1000),
    Nothing::new("DescribeSpotInstanceRequests", "SpotInstanceRequests")
        .named(&[("SpotInstanceRequestIds", Kind(&id::SPOT_REQUEST))])
        .filtered(
            true,
            "availability-zone-group create-time fault-code fault-message instance-id \
             launch-group launch.block-device-mapping.delete-on-termination \
             launch.block-device-mapping.device-name \
             launch.block-device-mapping.snapshot-id \
             launch.block-device-mapping.volume-size \
             launch.block-device-mapping.volume-type launch.group-id launch.group-name \
             launch.image-id launch.instance-type launch.kernel-id launch.key-name \
             launch.monitoring-enabled launch.ramdisk-id launched-availability-zone \
             launched-availability-zone-id network-interface.addresses.primary \
             network-interface.delete-on-termination network-interface.description \
             network-interface.device-index network-interface.group-id \
             network-interface.network-interface-id \
             network-interface.private-ip-address network-interface.subnet-id \
             product-description spot-instance-request-id spot-price state status-code \
             status-message type valid-from valid-until",
        )
        .paged(1, 1000),
    Nothing::new("DescribeSpotPriceHistory", "SpotPriceHistory")
        .filtered(
            false,
            "availability-zone availability-zone-id instance-type product-description \
             spot-price timestamp",
        )
        .paged(1, 1000)
        .beside(&[
            "AvailabilityZoneId",
            "StartTime",
            "EndTime",
            "InstanceTypes",
            "ProductDescriptions",
            "AvailabilityZone",
        ]),
    Nothing::new(
        "DescribeTransitGatewayAttachments",
        "TransitGatewayAttachments",
    )
    .named(&[(
        "TransitGatewayAttachmentIds",
        Code(
            "InvalidTransitGatewayAttachmentID.NotFound",
            "transit gateway attachment ID",
        ),
    )])
    .filtered(
        false,
        "association.state association.transit-gateway-route-table-id resource-id \
             resource-owner-id resource-type state transit-gateway-attachment-id \
             transit-gateway-id transit-gateway-owner-id",
    )
    .paged(5, 1000),
    Nothing::new(
        "DescribeTransitGatewayPeeringAttachments",
        "TransitGatewayPeeringAttachments",
    )
    .named(&[(
        "TransitGatewayAttachmentIds",
        Code(
            "InvalidTransitGatewayAttachmentID.NotFound",
            "transit gateway attachment ID",
        ),
    )])
    .filtered(
        true,
        "local-owner-id remote-owner-id state transit-gateway-attachment-id \
             transit-gateway-id",
    )
    .paged(5, 1000),
    Nothing::new(
        "DescribeTransitGatewayRouteTables",
        "TransitGatewayRouteTables",
    )
    .named(&[(
        "TransitGatewayRouteTableIds",
        Code(
            "InvalidRouteTableID.NotFound",
            "transit gateway route table ID",
        ),
    )])
    .filtered(
        false,
        "default-association-route-table default-propagation-route-table state \
             transit-gateway-id transit-gateway-route-table-id",
    )
    .paged(5, 1000),
    Nothing::new(
        "DescribeTransitGatewayVpcAttachments",
        "TransitGatewayVpcAttachments",
    )
    .named(&[(
        "TransitGatewayAttachmentIds",
        Code(
            "InvalidTransitGatewayAttachmentID.NotFound",
            "transit gateway attachment ID",
        ),
    )])
    .filtered(
        false,
        "state transit-gateway-attachment-id transit-gateway-id vpc-id",
    )
    .paged(5, 1000),
    Nothing::new("DescribeTransitGateways", "TransitGateways")
        .named(&[(
            "TransitGatewayIds",
            Code("InvalidTransitGatewayID.NotFound", "transit gateway ID"),
        )])
        .filtered(
            true,
            "options.amazon-side-asn options.association-default-route-table-id \
             options.auto-accept-shared-attachments \
             options.default-route-table-association \
             options.default-route-table-propagation options.dns-support \
             options.propagation-default-route-table-id options.vpn-ecmp-support \
             owner-id state transit-gateway-id",
        )
        .paged(5, 1000),
    Nothing::new(
        "DescribeVpcEndpointConnectionNotifications",
        "ConnectionNotificationSet",
    )
    .named(&[(
        "ConnectionNotificationId",
        Code(
            "InvalidConnectionNotification",
            "connection notification ID",
        ),
    )])
    .filtered(
        false,
        "connection-notification-arn connection-notification-id \
             connection-notification-state connection-notification-type service-id \
             vpc-endpoint-id",
    )
    .paged(1, 1000),
    Nothing::new("DescribeVpcEndpointConnections", "VpcEndpointConnections")
        .filtered(
            false,
            "ip-address-type service-id transit-gateway-attachment-id vpc-endpoint-id \
             vpc-endpoint-owner vpc-endpoint-region vpc-endpoint-state",
        )
        .paged(5, 1000),
    Nothing::new(
        "DescribeVpcEndpointServiceConfigurations",
        "ServiceConfigurations",
    )
    .named(&[(
        "ServiceIds",
        Code(
            "InvalidVpcEndpointServiceId.NotFound",
            "VPC endpoint service ID",
        ),
    )])
    .filtered(
        true,
        "service-id service-name service-state supported-ip-address-types",
    )
    .paged(5, 1000),
    Nothing::new("DescribeVpcEndpoints", "VpcEndpoints")
        .named(&[("VpcEndpointIds", Kind(&id::VPC_ENDPOINT))])
        .filtered(
            true,
            "ip-address-type service-name service-region vpc-endpoint-id \
             vpc-endpoint-state vpc-endpoint-type vpc-id",
        )
        .paged(1, 1000),
    Nothing::new("DescribeVpcPeeringConnections", "VpcPeeringConnections")
        .named(&[("VpcPeeringConnectionIds", Kind(&id::VPC_PEERING_CONNECTION))])
        .filtered(
            true,
            "accepter-vpc-info.cidr-block accepter-vpc-info.owner-id \
             accepter-vpc-info.vpc-id expiration-time requester-vpc-info.cidr-block \
             requester-vpc-info.owner-id requester-vpc-info.vpc-id status-code \
             status-message vpc-peering-connection-id",
        )
        .paged(5, 1000),
    Nothing::new("DescribeVpnConnections", "VpnConnections")
        .named(&[(
            "VpnConnectionIds",
            Code("InvalidVpnConnectionID.NotFound", "vpnConnection ID"),
        )])
        .filtered(
            true,
            "bgp-asn customer-gateway-configuration customer-gateway-id \
             option.static-routes-only route.destination-cidr-block state \
             transit-gateway-id type vpn-connection-id vpn-gateway-id",
        ),
    Nothing::new("DescribeVpnGateways", "VpnGateways")
        .named(&[(
            "VpnGatewayIds",
            Code("InvalidVpnGatewayID.NotFound", "vpnGateway ID"),
        )])
        .filtered(
            true,
            "amazon-side-asn attachment.state attachment.vpc-id availability-zone state \
             type vpn-gateway-id",
        ),
];
