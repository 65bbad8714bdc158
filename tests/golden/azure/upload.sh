#!/bin/sh
# Makes machine web-s in Azure. Log in first (`az login`), and choose the subscription (`az account set`).
set -eu

az group show --name shop-recovery --output none 2>/dev/null ||
    az group create --name shop-recovery --location northeurope --output none
az deployment group validate --resource-group shop-recovery --name recover-web-s \
    --template-file azure.json --parameters @azure.parameters.json phase=disks
az deployment group create --resource-group shop-recovery --name recover-web-s \
    --template-file azure.json --parameters @azure.parameters.json phase=disks

to=$(az disk grant-access --resource-group shop-recovery --name web-s-os --access-level Write \
    --duration-in-seconds 86400 --query 'accessSAS || accessSas' --output tsv)
azcopy copy sda.vhd "$to" --blob-type PageBlob
az disk revoke-access --resource-group shop-recovery --name web-s-os


to=$(az disk grant-access --resource-group shop-recovery --name web-s-data-4 --access-level Write \
    --duration-in-seconds 86400 --query 'accessSAS || accessSas' --output tsv)
azcopy copy sdc.vhd "$to" --blob-type PageBlob
az disk revoke-access --resource-group shop-recovery --name web-s-data-4

az deployment group create --resource-group shop-recovery --name recover-web-s \
    --template-file azure.json --parameters @azure.parameters.json phase=machine
